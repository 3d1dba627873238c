# Healing: `make MODEL-STEPS-heal` trains what MODEL-STEPS left to predict what the source does, on texts or conversations.
#
#   sentence     how `heal` is called; where that changes, it is redone
#   start        younger than all that training starts from: where that changes, checkpoints are of no use any more
#   work/        the log, a line of JSON for each step, and the checkpoints, from the newest of which a killed make goes on
#   healed.tns   the model, with what was trained

#: what the step heal trains on, several: local files, or data sets: wikitext_train, alpaca, ultrachat, openhermes
HEAL_DATA := wikitext_train
#: for how many steps
HEAL_STEPS := 100
#: or for as many steps as take so many tokens
HEAL_TOKENS :=
#: of how many of the conversations of each file, the first ones; empty: all
HEAL_LIMIT := 20000
#: and whatever heal is told besides, for example --lr 5e-4 --batch 4 --context 512
HEAL_OPTIONS :=
#: a launcher in front of heal, of as many processes as it says, for example mpirun -n 2 (THREADS are of each)
MPIRUN :=

HEAL_SETS := wikitext_train alpaca ultrachat openhermes
$(foreach v,HEAL_STEPS HEAL_TOKENS HEAL_LIMIT PROGRESSIVE_HEAL,$(call a_number,$v))
is_data = $(or $(filter $2,$1),$(wildcard $1))
$(foreach HEAL_DATA,$(HEAL_DATA),$(call safe,HEAL_DATA)$(if $(call is_data,$(HEAL_DATA),$(HEAL_SETS)),,$(error \
  HEAL_DATA: '$(HEAL_DATA)' is no file, and none of the data sets $(HEAL_SETS))))
$(if $(findstring ',$(HEAL_OPTIONS)),$(error HEAL_OPTIONS can't have ', but \*))
$(if $(strip $(HEAL_DATA)),,$(error HEAL_DATA is empty))
$(if $(HEAL_TOKENS),$(if $(filter command,$(origin HEAL_STEPS)),$(error HEAL_TOKENS, HEAL_STEPS: one of them says how long)),$(if \
  $(HEAL_STEPS),,$(error HEAL_STEPS is empty, and so is HEAL_TOKENS)))

heal_data = $(foreach d,$(HEAL_DATA),$(or $(data.$d),$d))
healed_from = $(model)/$(call unhealed,$(steps))
between_stages = $(filter %-progressive1-heal %-progressive2-heal,$(steps))
heal_length = $(if $(and $(between_stages),$(PROGRESSIVE_HEAL)),--steps $(PROGRESSIVE_HEAL),$(if $(HEAL_TOKENS),--tokens \
              $(HEAL_TOKENS),--steps $(HEAL_STEPS)))
# The source is the teacher, unless its logits are, or nobody is. A limit is of conversations.
healing_without = $(findstring --teacher-logits,$(HEAL_OPTIONS))$(filter ce --loss=ce,$(HEAL_OPTIONS))
healing_limit = $(if $(filter %.json %.jsonl,$(heal_data))$(filter command,$(origin HEAL_LIMIT)),$(addprefix --limit ,$(HEAL_LIMIT)))
heal = heal $(call measured,$(healed_from)) $(heal_data) $(if $(healing_without),,--teacher $(source)) $(heal_length) \
       $(healing_limit) --checkpoint-every 20 $(HEAL_OPTIONS)
# Of several processes each takes its share of the processors, unless the call says how many threads.
healing_threads = $(if $(and $(MPIRUN),$(filter-out command,$(origin THREADS))),,$(all_threads))

$R/%/start: $R/%/sentence $$(call whole,$$(healed_from)) $$(heal_data) $$(ready)
	@rm -rf $(@D)/work; touch $@

$R/%/healed.tns: $R/%/start $(BIN)/heal
	$(call say,HEAL,$(@D))$(call RUN,$(strip $(MPIRUN) $(heal) --work $(@D)/work $(healing_threads) $(if $V,--verbose)) -o $@,--all)

.PRECIOUS: $R/%/start $R/%/healed.tns
