# What the machine must have. `make` itself never installs: it says what is missing and names `make deps`.

TARGETS += config deps

# A stamp per group of needs: looked for once, before the first use.
$(addprefix $B/needs-,build check install lint): $B/needs-%: pipelines/needs
	@CC='$(CC)' pipelines/needs check $*
	@mkdir -p $(@D); touch $@

#: what this machine has: compiler, libraries, tools (✓ or ✗)
config:
	@printf '  %s\n' "$$('$(CC)' --version | head -1)" 'make $(MAKE_VERSION)' "$$(nproc) processors"
	@CC='$(CC)' pipelines/needs show

#: install what is missing (Debian; as root, otherwise it prints the command)
deps:
	@CC='$(CC)' pipelines/needs install build demo check plot install lint
