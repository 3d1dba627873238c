# What the layers see: calibration, the programs that look at it, and budgets that are dealt out by it.
#
#   dense/moments   second moments of what each layer sees in the model as it came; of a stage of progressive, in that stage
#   dense/*.jsonl   error curves with these moments: what each setting would cost and lose
#   dense/sensitivity-packed, -cut  how far the model's output moves when one matrix alone is rounded to 2 bits, or cut to 30 %
#   budget.plan     one setting for each matrix, chosen by `allot` under the budget of the sentence
#   states-NN       hidden states that enter block NN: there while pipelines/aware-block goes from block to block
#
# A sentence looks in one of these ways. dense: at the model as it came. sequential: block after block and part after part, at
# what those before give as they are compressed. cross: the same, beside the model as it came, to make up for what changed.

#: the way of looking of the step aware, and of budgets: dense, sequential, cross; empty: sequential where it cuts or turns groups
AWARE :=
#: a text to calibrate on instead of WikiText-2's training set
CALIBRATION :=
#: how many sequences, the first ones of it
SEQUENCES := 64
#: tokens per sequence
CALIBRATION_CONTEXT := 1024
#: for how many steps the results of the first two stages of progressive are healed before the next one looks; empty: they aren't
PROGRESSIVE_HEAL :=
#: what budgets choose from: budgets of mpo-decompose
CUT_CURVES := --keep .1,.15,.2,.25,.3,.35,.4,.45,.5,.6,.7,.8,.9
#: settings of quantize for groups of codes
PACK_CURVES := --bits 2,3,4 --group 64,128 --scale-bits 6 --rotate=0,64
#: and for trellis codes
TRELLIS_CURVES := --rate 1.5,2,2.5,3,3.5,4 --rotate=full
#: what budgets weigh errors by: the sensitivity of each matrix, block or kind; empty: all alike, as large models always have it
SENSITIVITY := matrix
#: tokens of the calibration text that it is measured on
SENSITIVITY_TOKENS := 1024

$(if $(filter-out dense sequential cross,$(AWARE)),$(error AWARE is '$(AWARE)', expected dense, sequential or cross))
$(if $(filter-out matrix block kind,$(SENSITIVITY)),$(error SENSITIVITY is '$(SENSITIVITY)', expected matrix, block, kind or nothing))
$(call safe,CALIBRATION)
$(if $(CALIBRATION),$(if $(wildcard $(CALIBRATION)),,$(error CALIBRATION: there is no file '$(CALIBRATION)')))

calibration = $(or $(CALIBRATION),$(data.wikitext_train))
calibrate = $(calibration) --sequences $(SEQUENCES) --context $(CALIBRATION_CONTEXT)

# How the run of a target looks, empty where it doesn't. What it looks at and starts from is the model as it came or, of a later
# stage, the result of the stage before. Each stage is for some of the matrices.
way = $(if $(filter aware,$(look)),$(usual_way),$(if $(look),$(or $(filter $(WAYS),$(look:aware-%=%)),dense),$(if $(filter \
      budget.plan,$(call sentence,$(steps))),$(usual_way))))
# Cut matrices lose much, and those behind them make up for it: SmolLM2 cut to 60 % has a perplexity of 229 so, of 374 in the dense
# way. Packed ones lose little, and it depends on chance which way is better (tests/RESULTS), but turned groups gain: at 2 bits
# 84.9 so, 97.2 in the dense way.
usual_way = $(or $(AWARE),$(if $(filter mpo-decompose --rotate,$(call sentence,$(steps))),$(if $(filter 2,$(words $(filter \
            budget.plan,$(call sentence,$(steps))))),dense,sequential),dense))
look = $(call ending,$(steps:%-svd=%))
stage = $(if $(filter progressive%,$(look)),$(or $(look:progressive%=%),3))
stage_before = $(or $(if $(filter 2 3,$(stage)),$(call body,$(steps))-progressive$(word $(stage),0 1 2)$(if \
               $(PROGRESSIVE_HEAL),-heal)),dense)
from = $(call measured,$(model)/$(stage_before))
from_files = $(filter-out %/dense/sentence,$(call whole,$(model)/$(stage_before)))
match.1 := --match \*.mlp.\*_proj.weight
match.2 := --match \*.self_attn.[qo]_proj.weight
match.3 := --match \*.self_attn.[kv]_proj.weight

# Moments of the whole model are made once, and kept for all that look at it in the dense way. Those of a large model (of Granite
# they would have 17 GB) and of the other ways are made block by block, used and deleted.
by_block = $(if $(filter rest,$(layer)),,$(if $(way),$(or $(filter-out dense,$(way)),$(large.$(model)))))
moments = $(if $(way),$(if $(by_block),,$R/$(model)/$(stage_before)/moments))
on_layers = $(if $(filter rest,$(layer)),,$1)
looking = $(call on_layers,$(strip $(addprefix --moments ,$(moments)) $(match.$(stage))))
looking_by = $(if $(by_block),$(hash) $(way): calibrate $(calibrate))
hash := \#
looks_at = $(call on_layers,$(moments) $(if $(by_block),$(calibration) $(folder)/$(piece_before).tns $(block_files)))

# Blocks come one after the other and have the whole machine, unless the call says how many threads.
all_threads = --threads $(if $(filter command,$(origin THREADS)),$(THREADS),$(shell nproc))
alone = $(all_threads) $(verbosity)
piece_before = $(if $(filter 0 rest,$(layer)),rest,layer-$(word $(layer),$(numbers)))
block_files = $(BIN)/calibrate $(BIN)/extract-layer pipelines/aware-block
block = pipelines/aware-block $1 $(layer)/$(layers.$(model)) $(folder) $(from) "$(calibrate)" "$(alone)" \
        "$(call with_options,$2,,$(match.$(stage)))"

$R/%/moments.call: $$(call changed,$$@,calibrate $$(call measured,$$*) $$(calibrate))
	@mkdir -p $(@D); echo 'calibrate $(call measured,$*) $(calibrate)' > $@

$R/%/moments: $R/%/moments.call $$(call whole,$$*) $$(calibration) $(BIN)/calibrate
	$(call say,LOOK,$@)$(call RUN,calibrate $(call measured,$*) $(calibrate) $(alone) -o $@,--all)

# Error curves of the programs that have settings. Those of the rest say what it takes with the embedding at 8 bits.
cut_curves = $(if $(CUT_CURVES),mpo-decompose --curves $(CUT_CURVES))
pack_curves = $(if $(PACK_CURVES),quantize --curves $(PACK_CURVES))
trellis_curves = $(if $(TRELLIS_CURVES),quantize --curves --code trellis $(TRELLIS_CURVES))
curve_kinds := cut pack trellis
curve_programs = $(foreach k,$(curve_kinds),$(addprefix | ,$(firstword $($k_curves))) $(wordlist 2,99,$($k_curves)))
$R/%/curves.call: $$(call changed,$$@,$$(curve_programs) $$(hash) $$(calibrate))
	@mkdir -p $(@D); echo '$(strip $(curve_programs) $(hash) $(calibrate))' > $@

curve_moments = $(if $(large.$(model)),,$(folder)/moments)
curve_looks_at = $(call on_layers,$(or $(curve_moments),$(calibration) $(folder)/$(piece_before).jsonl $(block_files)))
one_piece = extract-layer $(source) --layer $(layer)
curve = $(one_piece) | $($1_curves) $(options) --moments $(curve_moments) -o $@.$1.part;
layer_curves = rm -f $@.*.part; $(foreach k,$(curve_kinds),$(if $($k_curves),$(call curve,$k))) \
               cat $@.*.part > $@.part; rm $@.*.part; sync $@.part; mv $@.part $@
rest_curves = $(one_piece) | quantize $(options) | quantize --curves $(options) -o $@
curve_files = $(addprefix $(BIN)/,extract-layer mpo-decompose quantize)
$R/%.jsonl: $R/$$(model)/$$(steps)/curves.call $$(ready) $$(curve_looks_at) $$(curve_files)
	$(call say,CURVES,$@)$(if $(filter rest,$(layer)),$(call RUN,$(rest_curves)),$(if $(curve_moments),$(call \
	    RUN,$(layer_curves)),$(call RUN,$(call block,curves,$(curve_programs)),--all)))

# Sensitivities: one matrix compressed at a time, so they cost as many passes over a short text as there are matrices. A killed one
# goes on where it was, since `evaluate sensitivity` adds to what there is, unless the moments were made anew since.
sensitivity_kinds := packed cut
sensitivity_to.packed := --bits 2
sensitivity_to.cut := --keep .3
sensitivity = evaluate sensitivity $(source) $(calibration) $(sensitivity_to.$1) --moments $(folder)/moments --by $(SENSITIVITY) \
              --context $(CALIBRATION_CONTEXT) --limit-tokens $(SENSITIVITY_TOKENS)
define look_at_sensitivity
$R/%/sensitivity-$1.call: $$$$(call changed,$$$$@,$$$$(call sensitivity,$1))
	@mkdir -p $$(@D); rm -f $$(@D)/sensitivity-$1.part; echo '$$(call sensitivity,$1)' > $$@

$R/%/sensitivity-$1: $R/%/sensitivity-$1.call $R/%/moments $$$$(calibration) $(BIN)/evaluate
	$$(call say,LOOK,$$@)$$(call RUN,if [ $$(@D)/moments -nt $$@.part ]; then rm -f $$@.part; fi; \
	    $$(call sensitivity,$1) $$(alone) -o $$@.part && mv $$@.part $$@,--all)
endef
$(foreach k,$(sensitivity_kinds),$(eval $(call look_at_sensitivity,$k)))

# A budget's plan. Bits per weight are of the linear layers, bytes of everything; the embedding is packed to 8 bits in any case,
# as quantize does, unless the budget is one of parameters.
budget_step_of = $(firstword $(foreach s,$(subst -, ,$(call body,$1)),$(if $(filter budget.plan,$(call step,$s)),$s)))
budget_step = $(call budget_step_of,$(steps))
budget = $(if $(filter p%,$(budget_step)),$(budget_step:p%=%)%,$(budget_step) $(if $(filter %MB %KB,$(budget_step)),--whole))
embedding_too = $(if $(filter p%,$(budget_step)),, && printf "%s bits=8\n" "*embed_tokens.weight" "*lm_head.weight")
curves = $(addprefix $R/$(model)/dense/,$(addsuffix .jsonl,$(filter-out $(if $(filter %MB %KB,$(budget_step)),,rest),$(call \
         pieces,$(model)))))
weighed_by = $(if $(SENSITIVITY),$(if $(large.$1),,$R/$1/dense/sensitivity-$(if $(filter p%,$(call budget_step_of,$2)),cut,packed)))
weighing = $(call weighed_by,$(model),$(steps))
allot = allot --budget $(budget) $(addprefix --sensitivity ,$(weighing)) $(curves)
$R/%/budget.call: $$(call changed,$$@,$$(allot))
	@mkdir -p $(@D); echo '$(strip $(allot))' > $@

$R/%/budget.plan: $R/%/budget.call $$(curves) $$(weighing) $(BIN)/allot
	$(call say,ALLOT,$@){ $(allot) $(verbosity)$(embedding_too); } > $@.part && sync $@.part && mv $@.part $@

TARGETS += fetch-calibration
#: download WikiText-2's training set, unless CALIBRATION or DATA has one
fetch-calibration: $$(calibration)
	@printf '  %s\n' $^

.PRECIOUS: $R/%.jsonl $R/%/budget.plan $R/%/budget.call $R/%/moments.call $R/%/curves.call \
           $(foreach k,$(sensitivity_kinds),$R/%/sensitivity-$k $R/%/sensitivity-$k.call)
