# Installing: one driver in bin, the programs out of the way in libexec, since names like `quantize` are too common for /usr/bin.

#: where to install
PREFIX ?= /usr/local
#: a staging root in front of PREFIX, for packagers
DESTDIR ?=

libexec := $(PREFIX)/libexec/lapidary
share := $(PREFIX)/share

TARGETS += man install uninstall
MAN := $B/man/lapidary.1 $(PROGRAMS:%=$B/man/lapidary-%.1)
#: manual pages, made from --help by help2man
man: $(MAN)

help2man = LAPIDARY_PROGRAMS='$(abspath $(BIN))' help2man --no-info --section 1 --output $@ $1 $<

$B/man/lapidary-%.1: $(BIN)/% pipelines/lapidary.h2m | $B/needs-install
	@mkdir -p $(@D)
	$(call say,MAN,$@)$(call help2man,--include pipelines/lapidary.h2m --name "$$($< --help | sed -n '/^Usage:\|^  or:/d;s/\.$$//;p;q')")

$B/man/lapidary.1: pipelines/lapidary $(PROGRAMS:%=$(BIN)/%) | $B/needs-install
	@mkdir -p $(@D)
	$(call say,MAN,$@)$(call help2man,--name 'compress language models with tensor networks')

#: install programs, manual pages, completion and the stream format under $(DESTDIR)$(PREFIX)
install: build man
	install -d '$(DESTDIR)$(libexec)' '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(share)/man/man1' \
	    '$(DESTDIR)$(share)/bash-completion/completions' '$(DESTDIR)$(share)/doc/lapidary'
	install -m 755 $(PROGRAMS:%=$(BIN)/%) '$(DESTDIR)$(libexec)'
	ln -sf evaluate '$(DESTDIR)$(libexec)/eval'
	install -m 755 pipelines/lapidary '$(DESTDIR)$(PREFIX)/bin/lapidary'
	install -m 644 $(MAN) '$(DESTDIR)$(share)/man/man1'
	install -m 644 pipelines/completion.bash '$(DESTDIR)$(share)/bash-completion/completions/lapidary'
	install -m 644 common/stream/FORMAT README.md LICENSE '$(DESTDIR)$(share)/doc/lapidary'

#: remove what install put there
uninstall:
	rm -rf '$(DESTDIR)$(libexec)' '$(DESTDIR)$(share)/doc/lapidary'
	rm -f '$(DESTDIR)$(PREFIX)/bin/lapidary' '$(DESTDIR)$(share)/man/man1/lapidary'{,-*}.1 \
	    '$(DESTDIR)$(share)/bash-completion/completions/lapidary'
