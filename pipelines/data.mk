# Data sets: the texts for perplexity and for calibration, conversations to heal on, and the documents of the five tasks, as their
# makers publish them. DATA names a directory that has (some of) them already, as they are or packed (.xz; directories .tar.xz);
# what it lacks is downloaded to $R/data.

#: a directory with data sets (make fetch-data lists their names); what it lacks is downloaded
DATA :=
$(call safe,DATA)
$(if $(DATA),$(if $(wildcard $(DATA)/.),,$(error DATA: there is no directory '$(DATA)')))

# Of each set: the variable that says where it comes from, its file (and other names that it may have in DATA), the SHA-256 of
# the download or of the file, what to take out of an archive.
DATASETS := wikitext wikitext_train alpaca ultrachat openhermes hellaswag boolq mmlu triviaqa gsm8k gsm8k_train

#: WikiText-2, raw; the zip is a copy of the one that research.metamind.io had
WIKITEXT_URL := https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip
url.wikitext := WIKITEXT_URL
file.wikitext := wiki.test.raw
sum.wikitext := 173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08
members.wikitext := wikitext-2-raw/wiki.test.raw

# Its training set, for calibration.
url.wikitext_train := WIKITEXT_URL
file.wikitext_train := wiki.train.raw wikitext2_train_5k.txt
sum.wikitext_train := $(sum.wikitext)
members.wikitext_train := wikitext-2-raw/wiki.train.raw

#: Alpaca: 52,002 instructions and answers (23 MB)
ALPACA_URL := https://raw.githubusercontent.com/tatsu-lab/stanford_alpaca/main/alpaca_data.json
url.alpaca := ALPACA_URL
file.alpaca := alpaca_data.json alpaca_en_demo.json
sum.alpaca := 2eddafc6b977608d778aaab8dfc7e50e547b3af9826dfb9e909d9fc362e4a419

ULTRACHAT_FILE := train_sft-00000-of-00003-a3ecf92756993583.parquet
#: Ultrachat, filtered: the first of three files of train_sft (244 MB)
ULTRACHAT_URL := https://huggingface.co/datasets/HuggingFaceH4/ultrachat_200k/resolve/main/data/$(ULTRACHAT_FILE)
url.ultrachat := ULTRACHAT_URL
file.ultrachat := ultrachat_200k.jsonl
sum.ultrachat := afa8fa7426081b2a0e732fb50dbb5cd402a28ad5f0dbe66c0d996d63e7220727

#: OpenHermes 2.5, a million conversations (1.9 GB); of it no checksum is known
OPENHERMES_URL := https://huggingface.co/datasets/teknium/OpenHermes-2.5/resolve/main/openhermes2_5.json
url.openhermes := OPENHERMES_URL
file.openhermes := openhermes2_5.json

#: HellaSwag, validation
HELLASWAG_URL := https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl
url.hellaswag := HELLASWAG_URL
file.hellaswag := hellaswag_val.jsonl
sum.hellaswag := 0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588

#: BoolQ, validation, in SuperGLUE's form
BOOLQ_URL := https://dl.fbaipublicfiles.com/glue/superglue/data/v2/BoolQ.zip
url.boolq := BOOLQ_URL
file.boolq := boolq_dev.jsonl
sum.boolq := 853fbe7922f70c59629f06a39e8d9ca440c3d740e760fd3b87a5ddf3dcba2436
members.boolq := BoolQ/val.jsonl

#: MMLU, CSV files (166 MB)
MMLU_URL := https://people.eecs.berkeley.edu/~hendrycks/data.tar
url.mmlu := MMLU_URL
file.mmlu := mmlu
sum.mmlu := bec563ba4bac1d6aaf04141cd7d1605d7a5ca833e38f994051e818489592989b
members.mmlu := data/dev data/val data/test

#: TriviaQA, unfiltered (633 MB): the validation set of 11,313 questions
TRIVIAQA_URL := https://nlp.cs.washington.edu/triviaqa/data/triviaqa-unfiltered.tar.gz
url.triviaqa := TRIVIAQA_URL
file.triviaqa := triviaqa_unfiltered_dev.json triviaqa_open_test.jsonl
sum.triviaqa := adc19b42769062d241a8fbe834c56e58598d9322eb6c614e9f33a68a2cf5523e
members.triviaqa := triviaqa-unfiltered/unfiltered-web-dev.json

#: GSM8K, test
GSM8K_URL := https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/test.jsonl
url.gsm8k := GSM8K_URL
file.gsm8k := gsm8k_test.jsonl
sum.gsm8k := 3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14

#: GSM8K, train, for the examples in front of each question
GSM8K_TRAIN_URL := https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/train.jsonl
url.gsm8k_train := GSM8K_TRAIN_URL
file.gsm8k_train := gsm8k_train.jsonl
sum.gsm8k_train := 17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465

# Where each set is: in DATA as it is, unpacked from there, or downloaded. A checksum is that of the address above and no other.
in_data = $(if $(DATA),$(firstword $(foreach f,$(file.$1),$(wildcard $(addprefix $(DATA)/$f,/. .xz .tar.xz)) $(wildcard $(DATA)/$f))))
unpacked = $R/data/local/$(patsubst $(DATA)/%,%,$(patsubst %.tar,%,$(1:%.xz=%)))
place = $(if $1,$(if $(filter %.xz,$1),$(call unpacked,$1),$(1:%/.=%)),$R/data/$(firstword $(file.$2)))
$(foreach s,$(DATASETS),$(eval data.$s := $(call place,$(call in_data,$s),$s)))
sum_of = $(or $(and $(filter file,$(origin $(url.$1))),$(sum.$1)),-)

define fetched
$R/data/$(firstword $(file.$1)):
	$$(call say,FETCH,$$@)pipelines/fetch-data '$$($(url.$1))' $$(call sum_of,$1) '$$(or $$(members.$1),-)' $$@
endef
$(foreach s,$(DATASETS),$(eval $(call fetched,$s)))

# Another DATA may have other files of the same names.
$R/data/local/from: $$(call changed,$$@,$$(DATA))
	@mkdir -p $(@D); echo '$(DATA)' > $@

define packed
$(call unpacked,$1): $1 $R/data/local/from
	$$(call say,UNPACK,$$@)rm -rf $$@ $$@.part; $(if $(filter %.tar.xz,$1),mkdir $$@.part; \
	    tar -xJf $$< -C $$@.part --strip-components=1 --no-same-owner; touch $$@.part,xz -dc $$< > $$@.part); mv $$@.part $$@
endef
$(foreach s,$(DATASETS),$(foreach f,$(filter %.xz,$(call in_data,$s)),$(eval $(call packed,$f))))

TARGETS += fetch-data fetch-heal
#: download WikiText-2 and the documents of TASKS, unless DATA has them; or unpack those of DATA
fetch-data: $$(foreach s,$$(DATASETS),$$(if $$(filter wikitext $$(TASKS) $$(addsuffix _train,$$(TASKS)),$$s),$$(data.$$s)))
	@printf '  %s\n' $^
#: download what HEAL_DATA names, unless DATA has it
fetch-heal: $$(heal_data)
	@printf '  %s\n' $^
