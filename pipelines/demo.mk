# `make demo`: the main job on a fresh machine, in one call; `make demo-heal`: the same with healing. Their steps are makes of their
# own, because the first may install what the next ones look for when they start.

#: what make demo does to SmolLM2, and to the embedded model where no package registry can be reached
DEMO := chi100-q8
DEMO_STORIES := chi16-q8
#: how many tokens of the text make demo measures on
DEMO_TOKENS := 4096
#: what make demo-heal heals of SmolLM2, and of the embedded model
DEMO_HEAL := t2-r8-aware
DEMO_HEAL_STORIES := keep60-aware
#: for how many steps, unless HEAL_STEPS or HEAL_TOKENS says it
DEMO_HEAL_STEPS := 30
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

# What both demos start with, as shell text: model, steps ($1 of SmolLM2, $2 of the embedded model), context, and text: variables
# that say what is looked at, healed on and measured, where the call of make didn't and the usual data can't be downloaded.
heal_on = $(if $(filter command,$(origin HEAL_DATA)),,HEAL_DATA=$1)
define demo_choice
model=smollm2 steps='$1' context=1024 text='$(if $(CALIBRATION),$(call heal_on,$(CALIBRATION)))'; \
if ! $(MAKE) --no-print-directory fetch-smollm2; then \
    $(if $(SMOLLM2),exit 1,:); \
    echo 'demo: SmolLM2 cannot be fetched here; this is the embedded stories260K instead, a toy of 260,000 parameters'; \
    model=stories steps='$2' context=512; \
fi; \
$(if $(TEXT),,if ! $(MAKE) --no-print-directory fetch-data TASKS= >/dev/null; then \
    echo 'demo: WikiText-2 cannot be fetched here; perplexity and KL are on the end of $(DEMO_TEXT) (Tiny Shakespeare)'; \
    text="$$text TEXT=$(demo_rest) CONTEXT=512"; \
fi;) \
$(if $(CALIBRATION),,if ! $(MAKE) --no-print-directory fetch-calibration >/dev/null; then \
    echo 'demo: its training set cannot be fetched, either; what layers see is measured on the beginning of $(DEMO_TEXT)'; \
    text="$$text CALIBRATION=$(demo_first) $(call heal_on,$(demo_first))"; \
fi;) \
$(MAKE) --no-print-directory $(demo_first) $(demo_rest)
endef
demo_measured = TASKS= TOKENS=$(DEMO_TOKENS) KL_TOKENS=$(DEMO_TOKENS) OTHER_TOKENS=$(DEMO_TOKENS)

TARGETS += demo demo-heal
#: install what is missing, fetch SmolLM2, cut it plainly and pack it aware to equal bytes, and show what each still does
demo:
	@CC='$(CC)' pipelines/needs install build demo
	@$(MAKE) --no-print-directory $(demo_jobs) build
	@$(call demo_choice,$(DEMO),$(DEMO_STORIES)); \
	$(MAKE) --no-print-directory $(demo_jobs) "$$model-$$steps"; \
	aware=$$(pipelines/budget $R/$$model/$$steps/sizes.json); \
	reports=$$(printf "$R/$$model/%s/report.json " dense "$$steps" "$$aware"); \
	$(MAKE) --no-print-directory $(demo_jobs) $$reports $(demo_measured) $(demo_look) $$text; \
	echo; \
	pipelines/compare $$reports; \
	$(MAKE) --no-print-directory "$$model-dense.sample" "$$model-$$aware.sample" $(demo_look) $$text

demo_length = $(if $(filter command,$(origin HEAL_STEPS) $(origin HEAL_TOKENS)),,HEAL_STEPS=$(DEMO_HEAL_STEPS))
# The other source to measure on is the text that is carried here, where it isn't the only one.
#: the same, but cut and healed: perplexity and KL before and after, on the text that it is healed on and on another
demo-heal:
	@CC='$(CC)' pipelines/needs install build demo
	@$(MAKE) --no-print-directory $(demo_jobs) build
	@$(call demo_choice,$(DEMO_HEAL),$(DEMO_HEAL_STORIES)); \
	$(if $(OTHER_TEXT),,case $$text in \
	    (*$(demo_first)*|*$(demo_rest)*) text="$$text OTHER_TEXT=none" ;; \
	    (*) text="$$text OTHER_TEXT=$(DEMO_TEXT)" ;; \
	esac;) \
	told=($(demo_measured) $(demo_look) $(demo_length) $$text); \
	reports=$$(printf "$R/$$model/%s/report.json " dense "$$steps" "$$steps-heal"); \
	$(MAKE) --no-print-directory $(demo_jobs) $$reports "$${told[@]}"; \
	echo; \
	pipelines/compare $$reports; \
	$(MAKE) --no-print-directory "$$model-dense.sample" "$$model-$$steps.sample" "$$model-$$steps-heal.sample" \
	    "$${told[@]}"

# As many jobs as processors, unless the call said how many.
demo_jobs = $(if $(findstring j,$(filter -j% --jobserver%,$(MAKEFLAGS))),,-j$(shell nproc))
