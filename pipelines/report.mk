# What a model still does: `make MODEL-STEPS.report` measures it, and what it is to be compared with, and shows both side by side.
#
#   NAME.call     how `evaluate` is called for a measurement; where that changes, it is redone
#   NAME.json     one measurement: perplexity, kl (to the source), or a task; they run side by side, and a killed make goes on
#                 with those that are missing
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
#: what a .report measures too, to compare with: dense (the source), svd (the matrix SVD with as many parameters)
BASELINES := dense svd

ALL_TASKS := hellaswag boolq mmlu triviaqa gsm8k
one_of = $(foreach w,$(filter-out $2,$($1)),$(error $1: unknown word '$w'; it may have: $2))
a_number = $(if $($1),$(if $(or $(filter-out 1,$(words $($1))),$(call kind,$($1)),$(filter 0%,$($1))),$(error \
           $1 is '$($1)', expected a whole number from 1, or nothing)))
$(call one_of,TASKS,$(ALL_TASKS))
$(call one_of,BASELINES,dense svd)
$(foreach v,CONTEXT TOKENS KL_TOKENS LIMIT,$(call a_number,$v))
$(call safe,TEXT)
# Without this make would find no way to measure anew, and be content with what was measured on another text.
$(if $(TEXT),$(if $(wildcard $(TEXT)),,$(error TEXT: there is no file '$(TEXT)')))

text = $(or $(TEXT),$(data.wikitext))
windows = $(if $(CONTEXT),--context $(CONTEXT))

# Arguments of a measurement of the run $1, and the files that it reads beside the model.
arguments.perplexity = $(call measured,$1) $(text) $(windows) $(if $(TOKENS),--limit-tokens $(TOKENS))
arguments.kl = $(call measured,$1) $(source) $(text) $(windows) $(if $(KL_TOKENS),--limit-tokens $(KL_TOKENS))
reads.perplexity = $(text)
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

MEASUREMENTS := perplexity kl $(ALL_TASKS)
evaluate = evaluate $1 $(call arguments.$1,$*)
define measurement
$R/%/$1.call: $$$$(call changed,$$$$@,$$$$(call evaluate,$1))
	@mkdir -p $$(@D); echo '$$(strip $$(call evaluate,$1))' > $$@

$R/%/$1.json: $R/%/$1.call $$$$(call whole,$$$$*) $$$$(reads.$1) $(BIN)/evaluate
	$$(call say,EVAL,$$@)$$(call RUN,$$(strip $$(call evaluate,$1)) $$(options) -o $$@)
endef
$(foreach m,$(MEASUREMENTS),$(eval $(call measurement,$m)))

# The report of a run has what was asked for, and no more. The source's distance from itself is nothing to measure.
parts = sizes perplexity $(if $(call is_dense,$1),,kl) $(TASKS)
$R/%/parts: $$(call changed,$$@,$$(call parts,$$*))
	@mkdir -p $(@D); echo '$(strip $(call parts,$*))' > $@

$R/%/report.json: $R/%/parts $$(addprefix $R/$$*/,$$(addsuffix .json,$$(call parts,$$*))) pipelines/join-report pipelines/figures.py
	$(call say,REPORT,$@)pipelines/join-report $(model) $(steps) $(filter %.json,$^) $@

# Whether the matrix SVD is another model than the run itself is known when the run is there, so its make is one of its own.
cuts = $(if $(call is_svd,$1),,$(filter mpo-decompose,$(call sentence,$1)))
with_svd = $(if $(filter svd,$(BASELINES)),$(call cuts,$1))
make_svd = grep -qs '^\# none' $R/$1/$2/svd.plan || $(MAKE) --no-print-directory $(if $V,,--silent) \
           $R/$1/$2-svd/report.json
# Two makes must not make the same at the same time: where the baseline is a goal of this one, it comes first.
svd_goal = $(if $(filter $1-$2-svd.report,$(MAKECMDGOALS)),$R/$1/$2-svd/report.json)

define reports_of
$1-%.report: $R/$1/%/report.json $(if $(filter dense,$(BASELINES)),$R/$1/dense/report.json) \
             $$$$(if $$$$(call with_svd,$$$$*),$R/$1/$$$$*/svd.plan) $$$$(call svd_goal,$1,$$$$*)
	$$(if $$(call with_svd,$$*),+@$$(call make_svd,$1,$$*))
	@pipelines/compare $R/$1/$$*/report.json
endef
$(foreach m,$(MODELS),$(eval $(call reports_of,$m)))

# A sample of what a model writes, the most likely token each time.
prompt = $(subst ','\'',$(PROMPT))
plainly = $(if $(or $(call ending,$1),$(findstring budget.plan,$(call sentence,$1))),,$(call cuts,$1))
sample = echo; echo '$1$(if $(call plainly,$1), (cut the plain way: no look at data, no healing)): "$(prompt) ..."'; \
         generate $2 --prompt '$(prompt)' --max-tokens 40 $(if $V,--verbose,--quiet) | sed 's/^/    /'
define samples_of
$1-%.sample: $R/$1/%/model/config.json $R/$1/%/files $(BIN)/generate
	@$$(call sample,$$*,$R/$1/$$*/model)

$1-dense.sample: $(ready.$1) $(BIN)/generate
	@$$(call sample,dense,$(source.$1))
endef
$(foreach m,$(MODELS),$(eval $(call samples_of,$m)))

.PRECIOUS: $R/%/report.json $R/%/parts $(foreach m,$(MEASUREMENTS),$R/%/$m.call $R/%/$m.json)
named: $(foreach r,$(sort $(runs) $(foreach r,$(runs),$(firstword $(subst /, ,$r))/dense)),$(addprefix $R/$r/,\
         report.json parts sentence sizes.json $(foreach m,$(MEASUREMENTS),$m.call $m.json)))

TARGETS += table
#: all reports under $R side by side: first the dense model, then each run behind its matrix SVD
table:
	@pipelines/compare $(or $(wildcard $R/*/*/report.json),$(error there are no reports under '$R'; make MODEL-STEPS.report makes one))
