# `make demo`: the main job on a fresh machine, in one call. The steps of it are makes of their own, because the first may
# install what the next ones look for when they start.

#: what make demo does to SmolLM2, and to the embedded model where no package registry can be reached
DEMO := chi100-q8
DEMO_STORIES := chi16-q8
#: how many tokens of the text make demo measures on
DEMO_TOKENS := 4096
# The text for where WikiText-2 can't be downloaded: its first part to calibrate on, the rest to measure on.
DEMO_TEXT := pipelines/data/shakespeare.txt
demo_first := $R/data/shakespeare-first.txt
demo_rest := $R/data/shakespeare-rest.txt
# What the third row is chosen from, and how much text it looks at: little, to be quick.
demo_look := SENSITIVITY= SEQUENCES=16 CALIBRATION_CONTEXT=$$context CUT_CURVES= PACK_CURVES= TRELLIS_CURVES='--rate 2,2.5,3 --rotate=full'

$(demo_first): $(DEMO_TEXT)
	@mkdir -p $(@D); head -n 800 $< > $@.part && mv $@.part $@
$(demo_rest): $(DEMO_TEXT)
	@mkdir -p $(@D); tail -n +801 $< > $@.part && mv $@.part $@

TARGETS += demo
#: install what is missing, fetch SmolLM2, cut it plainly and pack it aware to equal bytes, and show what each still does
demo:
	@CC='$(CC)' pipelines/needs install build demo
	@$(MAKE) --no-print-directory $(demo_jobs) build
	@model=smollm2 steps='$(DEMO)' context=1024 text=; \
	if ! $(MAKE) --no-print-directory fetch-smollm2; then \
	    $(if $(SMOLLM2),exit 1,:); \
	    echo 'demo: SmolLM2 cannot be fetched here; this is the embedded stories260K instead, a toy of 260,000 parameters'; \
	    model=stories steps='$(DEMO_STORIES)' context=512; \
	fi; \
	$(if $(TEXT),,if ! $(MAKE) --no-print-directory fetch-data TASKS= >/dev/null; then \
	    echo 'demo: WikiText-2 cannot be fetched here; perplexity and KL are on the end of $(DEMO_TEXT) (Tiny Shakespeare)'; \
	    text='TEXT=$(demo_rest) CONTEXT=512'; \
	fi;) \
	$(if $(CALIBRATION),,if ! $(MAKE) --no-print-directory fetch-calibration >/dev/null; then \
	    echo 'demo: its training set cannot be fetched, either; what layers see is measured on the beginning of $(DEMO_TEXT)'; \
	    text="$$text CALIBRATION=$(demo_first)"; \
	fi;) \
	$(MAKE) --no-print-directory $(demo_first) $(demo_rest); \
	$(MAKE) --no-print-directory $(demo_jobs) "$$model-$$steps"; \
	aware=$$(pipelines/budget $R/$$model/$$steps/sizes.json); \
	reports=$$(printf "$R/$$model/%s/report.json " dense "$$steps" "$$aware"); \
	$(MAKE) --no-print-directory $(demo_jobs) $$reports TASKS= TOKENS=$(DEMO_TOKENS) KL_TOKENS=$(DEMO_TOKENS) \
	    $(demo_look) $$text; \
	echo; \
	pipelines/compare $$reports; \
	$(MAKE) --no-print-directory "$$model-dense.sample" "$$model-$$aware.sample" $(demo_look) $$text

# As many jobs as processors, unless the call said how many.
demo_jobs = $(if $(findstring j,$(filter -j% --jobserver%,$(MAKEFLAGS))),,-j$(shell nproc))
