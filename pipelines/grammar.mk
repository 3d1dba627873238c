# Sentences: `make MODEL-STEP-STEP...` extracts a model layer by layer, applies the steps from left to right, assembles the
# result and measures it. All of it lies in $R/MODEL/STEP-STEP.../:
#
#   sentence        the shell sentence that each layer goes through, and what it looks at; where it changes, all is redone
#   layer-NN.tns    one compressed stream per layer; rest.tns: embedding, final norm, head, companion files
#   model/          the assembled model; files lists what it consists of, so that a file that goes missing is noticed
#   sizes.json      sizes and errors of all tensors, counted and measured on that model
#   report.json     the same and what the model still does (pipelines/report.mk): `make MODEL-STEP-STEP....report`
#   *.plan          what the sentence's programs read, where a step is a plan that is made (pipelines/aware.mk)
#
# One file per layer and not per step: the steps of a layer cost seconds, so they are piped. A killed make goes on with the
# layers that are missing.

#: a launcher in front of each sentence, for example srun with its options
LAUNCH ?=
#: how many sentences run at once (default: as many as processors, fewer where memory is short)
SLOTS ?=
#: threads per program; slots, as many as processors, already run side by side
THREADS := 1

# A step is a name, N for a whole number, and what it adds to the sentence with $1 for the number. A step without `|` is an
# option of the program before it. `make help` lists what stands behind `# :`.
step.chiN = | mpo-decompose --chi $1# : bond dimension N
step.keepN = | mpo-decompose --keep $1e-2# : keep N % of a matrix's parameters
step.sitesN = --sites $1# : behind chiN or keepN: N cores per matrix
step.balanced = --shape balanced# : behind chiN or keepN: the paper's shape, factors as equal as can be
step.crossed = --shape crossed# : behind chiN or keepN: large factors of the rows beside small ones of the columns
step.matrix = --shape matrix# : behind chiN or keepN: the matrix SVD's shape
step.qN = | quantize --bits $1# : N bits per weight
step.gN = --group $1# : behind qN: groups of N weights share a scale
step.sN = --scale-bits $1# : behind qN: scales and minima of N bits
step.zint = --zero int# : behind qN: integer zero points
step.zmin = --zero min# : behind qN: a minimum per group
step.znone = --zero none# : behind qN: symmetric
step.rotate = --rotate# : behind qN: matrices are turned by signs and Hadamard blocks first
step.tN = | quantize --code trellis --rotate=full --rate $1# : trellis codes of N bits per weight, 1, 1.5, ... 4, of weights turned on both sides
step.stateN = --state $1# : behind tN: states of N bits; more take longer and lose less
step.rN = --residual-chi $1# : behind qN or tN: and a low-rank term of rank N for what rounding loses
step.pN = | mpo-decompose --plan budget.plan# : N % of the parameters, dealt out where they count most
step.N.Nbpw = $(within_budget)# : N.N bits per weight of the linear layers, dealt out
step.N.NMB = $(within_budget)# : N.N million bytes for the whole model, dealt out
step.N.NKB = $(within_budget)# : the same in thousand bytes
within_budget := | mpo-decompose --plan budget.plan | quantize --plan budget.plan
step.aware = # : last: the programs look at what a layer sees, in the way AWARE, or aware-dense, aware-sequential, aware-cross
step.progressive = # : last: MLP, then queries and outputs, then keys and values, each looking at the result of the one before
step.dense = # : alone: nothing is done, the model as it came is measured
step.heal = # : last, behind aware or progressive where they stand: trained on HEAL_DATA to be like the source again
step.svd = # : last, behind cut matrices: the matrix SVD with as many parameters instead, to compare with

# The numbers that N can be, where it can't be just any; and the steps that an option's step must stand behind.
numbers.qN := 2 3 4 5 6 8
numbers.sN := 6 8
numbers.tN := 1 1.5 2 2.5 3 3.5 4
numbers.stateN := 8 9 10 11 12 13 14 15 16
numbers.keepN = $(shell seq 100)
numbers.pN = $(numbers.keepN)
numbers.sitesN := 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
$(foreach s,sitesN balanced crossed matrix,$(eval behind.$s := chiN keepN))
$(foreach s,gN sN zint zmin znone rotate,$(eval behind.$s := qN))
behind.stateN := tN
behind.rN := qN tN

# Matrices that are cut or packed already stay as they are: behind these programs, a program has nothing to do but what they
# left over, and the sentence would say more than was done. A plan may well leave something for the other.
idle_behind.mpo-decompose := mpo-decompose quantize
idle_behind.quantize := quantize

# Any other step PLAN is a file: what it says about matrices by name goes to the programs it has keys for.
plan = pipelines/plans/$1.plan
plan_step = $(if $(call plan_has,$1,chi|keep|tolerance),| mpo-decompose --plan $(call plan,$1)) \
            $(if $(call plan_has,$1,bits),| quantize --plan $(call plan,$1))
plan_has = $(shell grep -E '^[^#]*[[:space:]]($2)=' $(call plan,$1))

STEPS := $(patsubst step.%,%,$(filter step.%,$(.VARIABLES)))
PLANS := $(foreach p,$(patsubst pipelines/plans/%.plan,%,$(wildcard pipelines/plans/*.plan)),$(if $(findstring -,$p),,$p))

# chi100 is of kind chi, its number is 100, its entry step.chiN; seed is of kind seed and has no number. 2.5bpw has its number in
# front, with one point in it, t2.5 one of a few that may have a point.
kind = $(subst 0,,$(subst 1,,$(subst 2,,$(subst 3,,$(subst 4,,$(subst 5,,$(subst 6,,$(subst 7,,$(subst 8,,$(subst 9,,$1))))))))))
a_number = $(if $($1),$(if $(or $(filter-out 1,$(words $($1))),$(call kind,$($1)),$(filter 0%,$($1))),$(error \
           $1 is '$($1)', expected a whole number from 1, or nothing)))
unit = $(firstword $(foreach u,bpw MB KB,$(if $(filter %$u,$1),$u)))
decimal = $(and $(filter .,$(call kind,$1)),$(filter-out .%,$1),$(word 2,$(subst ., ,$1)))
rate = $(filter $(numbers.tN),$(patsubst t%,%,$(filter t%,$1)))
number = $(or $(call rate,$1),$(if $(call unit,$1),$(1:%$(call unit,$1)=%),$(1:$(call kind,$1)%=%)))
entry = $(if $(call rate,$1),tN,$(if $(call unit,$1),$(if $(call decimal,$(call number,$1)),N.N$(call unit,$1)),$(filter \
        $(call kind,$1)$(if $(call number,$1),N),$(if $(filter $(call kind,$1)$(call number,$1),$1),$(STEPS)))))
step = $(if $(call entry,$1),$(call number_checked,$1)$(call step.$(call entry,$1),$(call number,$1)),$(if $(filter $1,$(PLANS)),\
       $(call plan_step,$1),$(error unknown step '$1'; the steps are: $(sort $(STEPS) $(PLANS)))))
number_checked = $(if $(filter 0%,$(call number,$1)),$(error step '$1': numbers begin at 1 and have no zeros in front))$(if \
       $(or $(filter $(call number,$1),$(numbers.$(call entry,$1))),$(if $(numbers.$(call entry,$1)),,any)),,$(error \
       step '$1': N is one of $(numbers.$(call entry,$1))))

# The sentence of STEP-STEP..., built up step by step: $1 is the sentence so far, $2 the step that its last program came from,
# $3 the steps that are left, $4 what the first of them adds.
sentence = $(if $(findstring --,-$1-),$(error there is an empty step in '-$1'))$(call unhealed_sentence,$(call without_heal,$1))
unhealed_sentence = $(if $(filter-out dense,$1),$(strip $(call \
                    walk,,,$(subst -, ,$(call body_checked,$1,$(call body,$(call without_svd,$1)))))))
walk = $(if $3,$(call append,$1,$2,$3,$(call step,$(firstword $3))),$1)
append = $(call $(if $(filter |,$4),check_program,check_option),$1,$2,$(firstword $3),$4)$(call \
         walk,$1 $4,$(if $(filter |,$4),$(firstword $3),$2),$(wordlist 2,$(words $3),$3))
check_program = $(if $(if $(filter %.plan,$1 $4),$(and $(filter budget.plan,$1),$(filter budget.plan,$4)),$(filter $(foreach \
         p,$(filter $(PROGRAMS),$4),$(idle_behind.$p)),$1)),$(error \
         step '$3' can't stand behind '$2': matrices that are cut or packed already stay as they are))
check_option = $(if $(filter $(call entry,$2),$(behind.$(call entry,$3))),,$(error \
         step '$3' must stand behind $(subst $() , or ,$(behind.$(call entry,$3)))$(if $2,$(,) not behind '$2')))$(if \
         $(filter $(firstword $4),$1),$(error step '$3': '$2' has that option already))

# The last steps say how the programs of the others look at data; in front of them stands the body. progressive1 and
# progressive2 are the models behind the first and the second stage of progressive.
WAYS := dense sequential cross
endings := aware $(WAYS:%=aware-%) progressive progressive1 progressive2
ending = $(firstword $(foreach e,$(endings),$(if $(filter %-$e,$1),$e)))
body = $(if $(call ending,$1),$(1:%-$(call ending,$1)=%),$1)
body_checked = $2$(foreach s,$(filter dense $(endings),$(subst -, ,$2)),$(error step '$s' in '$1' $(if $(filter dense,$s),stands \
         alone,must stand last$(,) behind chiN$(,) keepN$(,) qN or a plan)))

# STEPS-heal is what STEPS left, trained as a whole (pipelines/heal.mk): its layers go through the sentence of STEPS.
is_healed = $(filter %-heal,$1)
unhealed = $(1:%-heal=%)
without_heal = $(call unhealed,$1)$(if $(or $(filter heal,$(subst -, ,$(call unhealed,$1))),$(filter dense-heal,$1)),$(error \
               step 'heal' in '$1' must stand last$(,) behind what is cut or packed))

# STEPS-svd is the sentence of STEPS with mpo-decompose by a plan that is made from the result of STEPS. So is one with a shape,
# by a plan that is made from the sizes of the matrices.
is_svd = $(filter %-svd,$1)
without_svd = $(if $(filter svd,$(subst -, ,$(1:%-svd=%)))$(if $(call is_svd,$1),$(call cuts_nothing,$(1:%-svd=%))),$(error \
              step 'svd' in '$1' must stand last, behind chiN, keepN or a plan that cuts),$(1:%-svd=%))
cuts_nothing = $(if $(filter progressive%,$(call ending,$1)),x,$(if $(filter mpo-decompose,$(call sentence,$1)),,x))
space := $() $()
pieces_of = $(subst ^|, |,$(subst $(space),^,$1))
by_plan = $(subst ^, ,$(call once,| mpo-decompose --plan $2,$(patsubst |^mpo-decompose^%,|^mpo-decompose^--plan^$2,$(call \
          pieces_of,$1))))
once = $(subst $(subst $(space),^,$1) $(subst $(space),^,$1),$(subst $(space),^,$1),$2)
shape_of = $(subst ^, ,$(patsubst |^mpo-decompose^%,%,$(filter |^mpo-decompose^%,$(call pieces_of,$(call sentence,$1)))))

# The parts of a target $R/MODEL/STEPS/PIECE, read from its stem, and the sentence that makes the piece.
part = $(word $1,$(subst /, ,$*))
model = $(call part,1)
steps = $(call part,2)
layer = $(patsubst 0%,%,$(patsubst layer-%,%,$(call part,3)))
folder = $R/$(model)/$(steps)
pipe = $(subst budget.plan,$R/$(model)/$(steps:%-svd=%)/budget.plan,$(call $(if $(call is_svd,$(steps)),svd_pipe,$(if $(findstring \
       --shape,$(call sentence,$(steps))),shape_pipe,sentence)),$(steps)))
svd_pipe = $(call by_plan,$(call sentence,$1),$R/$(model)/$(1:%-svd=%)/svd.plan)
shape_pipe = $(call by_plan,$(call sentence,$1),$(folder)/shape.plan)
source = $(source.$(model))
ready = $(or $(ready.$(model)),$(source),$(error unknown model '$(model)'; the models are: $(MODELS)))
programs = $(addprefix $(BIN)/,extract-layer $(filter $(PROGRAMS),$(pipe)))
plans = $(filter %.plan,$(pipe))

digits := 0 1 2 3 4 5 6 7 8 9
pairs := $(foreach d,$(digits),$(addprefix $d,$(digits)))
numbers := $(pairs) $(foreach d,$(filter-out 0,$(digits)),$(addprefix $d,$(pairs)))
pieces = rest $(addprefix layer-,$(wordlist 1,$(layers.$1),$(numbers)))

# Programs are found as the user finds them, so the sentences that make shows can be typed.
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONDONTWRITEBYTECODE := 1
options = --threads $(THREADS) $(verbosity)
verbosity = $(if $(V),--verbose,--quiet)
with_options = $(foreach word,$1,$(word)$(if $2,$(if $(filter $(word),$(PROGRAMS)), $2))$(if $3,$(if $(filter $(looking_programs), \
               $(word)), $3)))
looking_programs := mpo-decompose quantize
RUN = pipelines/slot$(if $2, $2) $(if $(LAUNCH),'$(LAUNCH) bash -eu -o pipefail -c "$(subst ",\",$1)"','$1')

# What each piece comes from, and what its programs are told beside the sentence, is the model as it came and nothing, unless
# they look at data (pipelines/aware.mk).
said = $(strip $(if $(call is_healed,$(steps)),$(heal),extract-layer $(from) $(call with_options,$(pipe),,$(looking)) \
       $(looking_by)))
$R/%/sentence: $$(call changed,$$@,$$(said))
	@mkdir -p $(@D)
	@echo '$(said)' > $@

$R/%.tns: $R/$$(model)/$$(steps)/sentence $$(from_files) $$(programs) $$(plans) $$(looks_at)
	$(if $(by_block),$(call say,BLOCK,$@)$(call RUN,$(call block,$(way),$(pipe)),--all),$(call say,PIPE,$@)$(call \
	    RUN,extract-layer $(from) --layer $(layer) $(call with_options,$(pipe),$(options),$(looking)) -o $@))

# Make sees a model by its config.json; files tells it what else must be there.
lost = $(if $(filter-out $(notdir $(wildcard $R/$1/model/*)),$(file < $R/$1/files)),FORCE)
streams = $(if $(call is_healed,$(steps)),healed,$(call pieces,$(model)))
$R/%/model/config.json: $$(addprefix $R/$$*/,$$(addsuffix .tns,$$(streams))) $(BIN)/assemble $$(call lost,$$*)
	$(call say,JOIN,$(@D))$(call RUN,assemble $(options) --force $(filter %.tns,$^) -o $(@D))

$R/%/files: $R/%/model/config.json
	@ls $(@D)/model > $@.part && mv $@.part $@

# What stands for the whole model, and the model argument that programs get. Of `dense` that is the source.
is_dense = $(filter %/dense,$1)
whole = $R/$1/sentence $(if $(call is_dense,$1),$(ready),$R/$1/model/config.json $R/$1/files)
measured = $(if $(call is_dense,$1),$(source),$R/$1/model)

$R/%/sizes.json: $$(call whole,$$*) $(BIN)/tensor-info $(BIN)/tensor-diff pipelines/measure pipelines/figures.py
	$(call say,MEASURE,$@)$(call RUN,pipelines/measure --threads $(THREADS) $(source) $(call measured,$*) -o $@)

$R/%/svd.plan: $R/%/model/config.json $R/%/files $(BIN)/tensor-info pipelines/svd-plan pipelines/figures.py
	$(call say,PLAN,$@)pipelines/svd-plan $(@D)/model $@

$R/%/shape.plan: $$(ready) $(BIN)/tensor-info pipelines/shape-plan pipelines/figures.py
	@mkdir -p $(@D)
	$(call say,PLAN,$@)pipelines/shape-plan $(source) $@ $(call shape_of,$(steps))

define sentences_of
$1-%: $R/$1/%/sizes.json
	@pipelines/table $$<
endef
$(foreach m,$(MODELS),$(eval $(call sentences_of,$m)))

# Files that make finds only by chaining pattern rules are intermediate to it: it would delete them at the end, and not miss
# them once deleted. PRECIOUS keeps them; naming them as prerequisites of something makes it miss them. So the files of all
# sentences asked for are named here: of goals MODEL-STEPS, of goals in $R/MODEL/STEPS/, and of what a graph adds to SENTENCES.
.PRECIOUS: $R/%/sentence $R/%.tns $R/%/model/config.json $R/%/files $R/%/sizes.json $R/%/svd.plan $R/%/shape.plan
SENTENCES ?=
goals = $(patsubst %.report,%,$(patsubst %.sample,%,$(MAKECMDGOALS) $(SENTENCES)))
runs := $(sort $(foreach m,$(MODELS),$(patsubst $m-%,$m/%,$(filter $m-%,$(goals)))) \
               $(foreach g,$(patsubst $R/%,%,$(filter-out $R/data/%,$(filter $R/%,$(goals)))),$(if $(word 3,$(subst /, ,$g)),\
                 $(word 1,$(subst /, ,$g))/$(word 2,$(subst /, ,$g)))))
# Each is read once before anything is done, so that a wrong one is refused. What one with the step heal starts from has files,
# too, and so have what one with the step svd is compared with, the stages of a progressive one (healed, where they are) and the
# curves of one with a budget.
model_of = $(firstword $(subst /, ,$1))
steps_of = $(patsubst $(call model_of,$1)/%,%,$1)
$(foreach r,$(runs),$(if $(call sentence,$(call steps_of,$r)),))
runs := $(sort $(runs) $(patsubst %-heal,%,$(filter %-heal,$(runs))))
runs := $(sort $(runs) $(patsubst %-svd,%,$(filter %-svd,$(runs))))
stages := $(foreach s,1 2,-progressive$s $(if $(PROGRESSIVE_HEAL),-progressive$s-heal))
runs := $(sort $(runs) $(foreach s,$(stages),$(patsubst %-progressive,%$s,$(filter %-progressive,$(runs)))))
files_of_run = sentence sizes.json $(if $(call is_dense,$1),,model/config.json files $(if $(call is_healed,$1),start \
               healed.tns,$(addsuffix .tns,$(call pieces,$(call model_of,$1))) svd.plan \
               $(if $(call has_budget,$1),budget.call budget.plan) \
               $(if $(filter --shape,$(call sentence,$(call steps_of,$1))),shape.plan)))
has_budget = $(filter budget.plan,$(call sentence,$(call steps_of,$1)))
files_of_budget = $(call weighed_by,$1,$2) $(addprefix $R/$1/dense/,$(addsuffix .jsonl,$(call pieces,$1)))
named: $(foreach r,$(runs),$(addprefix $R/$r/,$(call files_of_run,$r)) $(if $(call has_budget,$r),$(call \
         files_of_budget,$(call model_of,$r),$(call steps_of,$r))))
# Moments may be deleted: they are missed by what needs them only.
.SECONDARY: $(foreach r,$(sort $(runs) $(foreach r,$(runs),$(call model_of,$r)/dense)),$R/$r/moments)

# A goal that looks like a sentence but starts with no known model is refused by name.
$(foreach g,$(filter-out $(TARGETS) $(MODELS:=-%),$(MAKECMDGOALS)),$(if $(findstring -,$(filter-out %/,$(subst /,/ ,$g))),$(if \
  $(findstring /,$g),,$(error unknown model '$(firstword $(subst -, ,$g))' in '$g'; \
  the models are: $(MODELS) (my: with MODEL=PATH behind make)))))

define help_sentences
echo; echo 'Sentences: MODEL-STEP-STEP..., applied from left to right, for example smollm2-chi100-q8; files in $R/MODEL/STEPS/'; \
echo '  with .report behind it: perplexity, KL and tasks, too; with .sample: how it goes on with PROMPT'; \
echo '  models:          $(MODELS)$(if $(MODEL),, my (with MODEL=PATH))'; \
sed -n 's/^step\.\([^ ]*\) = .*# : /\1\t/p' pipelines/grammar.mk | while IFS=$$'\t' read -r name text; do printf '  %-16s %s\n' "$$name" "$$text"; done; \
for plan in $(PLANS); do printf '  %-16s %s\n' "$$plan" "$$(sed -n '1s/^# *//p' pipelines/plans/$$plan.plan)"; done
endef
