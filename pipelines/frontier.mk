# Many sentences of one model side by side, each point from its report.
#
#   frontier.tsv, frontier-*.svg    what bits and parameters buy: perplexity and KL against both
#   ablation.tsv                    chi x shape x sites x bits, cut plainly and by the same moments, at equal parameters

#: the model of make frontier and make ablation
FRONTIER_MODEL := smollm2
#: what make frontier compares: sentences without the model
FRONTIER := dense q4 q3 q2 q4-aware q3-aware q2-aware q3-rotate-aware q2-rotate-aware q3-g32-s6-aware q2-g32-s6-aware \
            q3-r16-aware q2-r16-aware t2-aware t2.5-aware t3-aware t3.5-aware t2-r8-aware \
            2.0bpw 2.5bpw 3.0bpw 3.5bpw keep80 keep90-aware keep80-aware keep60-aware keep40-aware p70 p50 p30 \
            keep50-matrix-aware-dense keep50-balanced-aware-dense keep50-crossed-aware-dense \
            keep50-sites3-balanced-aware-dense keep50-sites3-crossed-aware-dense
#: JSON lines with others' results on the same text, to stand beside ours: name, bpw_linear, perplexity, kl
PEERS :=
#: what make ablation goes through: bond dimensions of the matrix SVD; other shapes get as many parameters
CHI := 100 200
#: numbers of sites
SITES := 2 3
#: shapes; matrix has two sites
SHAPES := matrix balanced crossed
#: bits of the cores, 16: not packed
BITS := 16 8 4

$(call safe,PEERS)
ablation_cuts = $(filter-out %-matrix,$(foreach c,$(CHI),$(foreach s,$(filter-out 2,$(SITES)),$(foreach \
                f,$(SHAPES),chi$c-sites$s-$f)))) $(foreach c,$(if $(filter 2,$(SITES)),$(CHI)),$(foreach f,$(SHAPES),chi$c-$f))
ablation_packed = $(foreach c,$(sort $(ablation_cuts)),$(foreach b,$(BITS),$c$(if $(filter-out 16,$b),-q$b)))
ABLATION = dense $(foreach c,$(ablation_packed),$c $c-aware-dense)
asked_of = $(if $(filter $1,$(MAKECMDGOALS)),$(addprefix $(FRONTIER_MODEL)-,$2))
SENTENCES += $(call asked_of,frontier,$(FRONTIER)) $(call asked_of,ablation,$(ABLATION))
reports_for = $(patsubst %,$R/$(FRONTIER_MODEL)/%/report.json,$1)

TARGETS += frontier ablation
#: sentences of FRONTIER side by side: perplexity and KL against bits per weight and parameters, as a table and plots
frontier: $$(call reports_for,$$(FRONTIER)) $$(PEERS)
	@pipelines/frontier $(filter %/report.json,$^) $(addprefix --peers ,$(PEERS)) --plot $R/$(FRONTIER_MODEL)/frontier \
	    -o $R/$(FRONTIER_MODEL)/frontier.tsv
#: the sweep over CHI, SHAPES, SITES and BITS, cut plainly and by moments of the model as it came, as a table
ablation: $$(call reports_for,$$(ABLATION))
	@pipelines/frontier $^ -o $R/$(FRONTIER_MODEL)/ablation.tsv
