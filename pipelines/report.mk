# What a model still does: `make MODEL-STEPS.report` measures it, and what it is to be compared with, and shows both side by side.
#
#   NAME.call     how `evaluate` is called for a measurement; where that changes, it is redone
#   NAME.json     one measurement: perplexity, other (perplexity on a second text), kl (to the source), or a task; they run side
#                 by side, and a killed make goes on with those that are missing
#   report.json   sizes.json and the measurements that were asked for, in one file
#   svd.plan      what gives each matrix in cores the matrix SVD with as many parameters: the baseline STEPS-svd

#: a text for perplexity and KL instead of WikiText-2's test set
TEXT :=
#: tokens per window of it; empty: 2048, or the model's maximum where that is smaller
CONTEXT :=
#: how many tokens of it perplexity is measured on; empty: all
TOKENS :=
#: how many tokens of it KL is measured on, which takes the source model too; empty: all
KL_TOKENS := 32768
#: what a .sample goes on with
PROMPT := Once upon a time
#: what a .report measures of these: hellaswag boolq mmlu triviaqa gsm8k (make frontier and ablation: none)
TASKS := $(if $(filter frontier ablation,$(MAKECMDGOALS)),,hellaswag boolq mmlu triviaqa gsm8k)
#: documents per task (MMLU: spread over its 57 subjects, one of each at least); empty: the full sets
LIMIT := 20
#: what a .report measures too, to compare with: dense (the source), svd (the matrix SVD with as many parameters), unhealed
BASELINES := dense svd unhealed
# It tells whether healing just fitted the first one. Empty: the first of alpaca, ultrachat, openhermes that HEAL_DATA doesn't have.
#: a second text for perplexity, of another source: a file, a data set, or none; empty: conversations, where something is healed
OTHER_TEXT :=
#: how many tokens of it
OTHER_TOKENS := 16384

ALL_TASKS := hellaswag boolq mmlu triviaqa gsm8k
one_of = $(foreach w,$(filter-out $2,$($1)),$(error $1: unknown word '$w'; it may have: $2))
$(call one_of,TASKS,$(ALL_TASKS))
$(call one_of,BASELINES,dense svd unhealed)
$(foreach v,CONTEXT TOKENS KL_TOKENS OTHER_TOKENS LIMIT,$(call a_number,$v))
$(call safe,TEXT)
# Without this make would find no way to measure anew, and be content with what was measured on another text.
$(if $(TEXT),$(if $(wildcard $(TEXT)),,$(error TEXT: there is no file '$(TEXT)')))

text = $(or $(TEXT),$(data.wikitext))
windows = $(if $(CONTEXT),--context $(CONTEXT))

# The second text. Of conversations it is what they say, as plain text; of another data set, made anew.
CONVERSATIONS := alpaca ultrachat openhermes
$(call safe,OTHER_TEXT)
$(if $(OTHER_TEXT),$(if $(call is_data,$(OTHER_TEXT),none wikitext $(HEAL_SETS)),,$(error \
  OTHER_TEXT: '$(OTHER_TEXT)' is no file$(,) and none of the data sets wikitext $(HEAL_SETS))))
healing := $(filter %-heal,$(runs))
$(foreach v,TEXT OTHER_TEXT,$(if $(and $(healing),$(filter $(HEAL_DATA),$($v))),$(error $v is '$($v)', which HEAL_DATA has, too)))
usual_other := $(if $(filter frontier ablation,$(MAKECMDGOALS)),,$(if $(healing),$(firstword $(filter-out \
               $(HEAL_DATA),$(CONVERSATIONS)))))
other_text := $(filter-out none,$(or $(OTHER_TEXT),$(usual_other)))
other_data := $(or $(data.$(other_text)),$(other_text))
other := $(if $(filter %.json %.jsonl,$(other_data)),$R/data/text/$(basename $(notdir $(other_data))).txt,$(other_data))

$R/data/text/from: $$(call changed,$$@,$(other_data))
	@mkdir -p $(@D); echo '$(other_data)' > $@

$R/data/text/%.txt: $(other_data) $R/data/text/from pipelines/plain-text pipelines/figures.py
	$(call say,TEXT,$@)pipelines/plain-text $(other_data) $@

# Arguments of a measurement of the run $1, and the files that it reads beside the model.
arguments.perplexity = $(call measured,$1) $(text) $(windows) $(if $(TOKENS),--limit-tokens $(TOKENS))
arguments.kl = $(call measured,$1) $(source) $(text) $(windows) $(if $(KL_TOKENS),--limit-tokens $(KL_TOKENS))
arguments.other = $(call measured,$1) $(other) $(windows) $(if $(OTHER_TOKENS),--limit-tokens $(OTHER_TOKENS))
reads.perplexity = $(text)
reads.other = $(other)
reads.kl = $(text) $(ready)

# Of tasks a limit counts per document, of MMLU per document of each subject.
limit := $(if $(LIMIT),--limit $(LIMIT))
limit_of_57 := $(if $(LIMIT),--limit $(shell echo $$((($(LIMIT) + 56) / 57))))
arguments.hellaswag = $(call measured,$1) $(data.hellaswag) $(limit)
arguments.boolq = $(call measured,$1) $(data.boolq) $(limit)
arguments.mmlu = $(call measured,$1) $(data.mmlu) $(limit_of_57)
arguments.triviaqa = $(call measured,$1) $(data.triviaqa) $(limit)
arguments.gsm8k = $(call measured,$1) $(data.gsm8k) --train $(data.gsm8k_train) $(limit)
$(foreach t,$(ALL_TASKS),$(eval reads.$t = $(data.$t) $(data.$t_train)))

MEASUREMENTS := perplexity other kl $(ALL_TASKS)
evaluate = evaluate $(if $(filter other,$1),perplexity,$1) $(call arguments.$1,$*)
define measurement
$R/%/$1.call: $$$$(call changed,$$$$@,$$$$(call evaluate,$1))
	@mkdir -p $$(@D); echo '$$(strip $$(call evaluate,$1))' > $$@

$R/%/$1.json: $R/%/$1.call $$$$(call whole,$$$$*) $$$$(reads.$1) $(BIN)/evaluate
	$$(call say,EVAL,$$@)$$(call RUN,$$(strip $$(call evaluate,$1)) $$(options) -o $$@)
endef
$(foreach m,$(MEASUREMENTS),$(eval $(call measurement,$m)))

# The report of a run has what was asked for, and no more. The source's distance from itself is nothing to measure.
parts = sizes perplexity $(if $(other),other) $(if $(call is_dense,$1),,kl) $(TASKS)
$R/%/parts: $$(call changed,$$@,$$(call parts,$$*))
	@mkdir -p $(@D); echo '$(strip $(call parts,$*))' > $@

$R/%/report.json: $R/%/parts $$(addprefix $R/$$*/,$$(addsuffix .json,$$(call parts,$$*))) pipelines/join-report pipelines/figures.py
	$(call say,REPORT,$@)pipelines/join-report $(model) $(steps) $(filter %.json,$^) $@

# Whether the matrix SVD is another model than the run itself is known when the run is there, so its make is one of its own.
# Of a healed one it is that of what was healed.
cuts = $(if $(call is_svd,$1),,$(filter mpo-decompose,$(call sentence,$1)))
with_svd = $(if $(filter svd,$(BASELINES)),$(if $(call cuts_nothing,$(call unhealed,$1)),,$(call cuts,$(call unhealed,$1))))
make_svd = grep -qs '^\# none' $R/$1/$2/svd.plan || $(MAKE) --no-print-directory $(if $V,,--silent) \
           $R/$1/$2-svd/report.json $(addprefix OTHER_TEXT=,$(other_text))
with_unhealed = $(and $(filter unhealed,$(BASELINES)),$(call is_healed,$1))
# Two makes must not make the same at the same time: where the baseline is a goal of this one, it comes first.
svd_goal = $(if $(filter $1-$2-svd.report,$(MAKECMDGOALS)),$R/$1/$2-svd/report.json)

define reports_of
$1-%.report: $R/$1/%/report.json $(if $(filter dense,$(BASELINES)),$R/$1/dense/report.json) \
             $$$$(if $$$$(call with_unhealed,$$$$*),$R/$1/$$$$(call unhealed,$$$$*)/report.json) \
             $$$$(if $$$$(call with_svd,$$$$*),$R/$1/$$$$(call unhealed,$$$$*)/svd.plan) \
             $$$$(call svd_goal,$1,$$$$(call unhealed,$$$$*))
	$$(if $$(call with_svd,$$*),+@$$(call make_svd,$1,$$(call unhealed,$$*)))
	@pipelines/compare $R/$1/$$*/report.json
endef
$(foreach m,$(MODELS),$(eval $(call reports_of,$m)))

# A sample of what a model writes, the most likely token each time.
prompt = $(subst ','\'',$(PROMPT))
plainly = $(if $(or $(call is_healed,$1),$(call ending,$1),$(findstring budget.plan,$(call sentence,$1))),,$(call cuts,$1))
sample = echo; echo '$1$(if $(call plainly,$1), (cut the plain way: no look at data, no healing)): "$(prompt) ..."'; \
         generate $2 --prompt '$(prompt)' --max-tokens 40 $(if $V,--verbose,--quiet) | sed 's/^/    /'
define samples_of
$1-%.sample: $R/$1/%/model/config.json $R/$1/%/files $(BIN)/generate
	@$$(call sample,$$*,$R/$1/$$*/model)

$1-dense.sample: $(ready.$1) $(BIN)/generate
	@$$(call sample,dense,$(source.$1))
endef
$(foreach m,$(MODELS),$(eval $(call samples_of,$m)))

.PRECIOUS: $R/data/text/%.txt $R/%/report.json $R/%/parts $(foreach m,$(MEASUREMENTS),$R/%/$m.call $R/%/$m.json)
named: $(foreach r,$(sort $(runs) $(foreach r,$(runs),$(firstword $(subst /, ,$r))/dense)),$(addprefix $R/$r/,\
         report.json parts sentence sizes.json $(foreach m,$(MEASUREMENTS),$m.call $m.json)))

TARGETS += table
#: all reports under $R side by side: first the dense model, then each run behind its matrix SVD
table:
	@pipelines/compare $(or $(wildcard $R/*/*/report.json),$(error there are no reports under '$R'; make MODEL-STEPS.report makes one))
