# `make demo`: the main job on a fresh machine, in one call. The steps of it are makes of their own, because the first may
# install what the next ones look for when they start.

#: what make demo does to SmolLM2, and to the embedded model where no package registry can be reached
DEMO := chi100-q8
DEMO_STORIES := chi16-q8
#: how many tokens of the text make demo measures on
DEMO_TOKENS := 4096
# The text for where WikiText-2 can't be downloaded.
DEMO_TEXT := pipelines/data/shakespeare.txt

TARGETS += demo
#: install what is missing, fetch SmolLM2, cut it, and show sizes, perplexity, KL and a sample of text beside the source's
demo:
	@CC='$(CC)' pipelines/needs install build demo
	@$(MAKE) --no-print-directory $(demo_jobs) build
	@model=smollm2 steps='$(DEMO)' text=; \
	if ! $(MAKE) --no-print-directory fetch-smollm2; then \
	    $(if $(SMOLLM2),exit 1,:); \
	    echo 'demo: SmolLM2 cannot be fetched here; this is the embedded stories260K instead, a toy of 260,000 parameters'; \
	    model=stories steps='$(DEMO_STORIES)'; \
	fi; \
	$(if $(TEXT),,if ! $(MAKE) --no-print-directory fetch-data TASKS= >/dev/null; then \
	    echo 'demo: WikiText-2 cannot be fetched here; perplexity and KL are on $(DEMO_TEXT) (Tiny Shakespeare)'; \
	    text=TEXT=$(DEMO_TEXT); \
	fi;) \
	$(MAKE) --no-print-directory $(demo_jobs) "$$model-$$steps"; \
	echo; \
	$(MAKE) --no-print-directory $(demo_jobs) "$$model-$$steps.report" TASKS= BASELINES=dense TOKENS=$(DEMO_TOKENS) \
	    KL_TOKENS=$(DEMO_TOKENS) $$text; \
	$(MAKE) --no-print-directory "$$model-dense.sample" "$$model-$$steps.sample"

# As many jobs as processors, unless the call said how many.
demo_jobs = $(if $(findstring j,$(filter -j% --jobserver%,$(MAKEFLAGS))),,-j$(shell nproc))
