# The test machinery itself: what fails must look failed, and what is skipped must be counted.

setup() {
    cd "$BATS_TEST_TMPDIR" || exit
    export SKIPS=$BATS_TEST_TMPDIR/skips
}

judge() {
    prove --exec "$TOP/tests/run" "$@"
}

@test "a skipped test passes, and is written down with its reason" {
    printf 'echo 1..1; echo "ok 1 - a # SKIP no CUDA device"\n' >a.sh
    REQUIRE='' run judge ./a.sh
    [ "$status" -eq 0 ]
    [ "$(cat skips)" = './a.sh: no CUDA device' ]
    "$TOP/tests/run" --skipped skips | grep -q '^1 skipped:'
}

@test "a skipped test that is required fails" {
    printf 'echo 1..1; echo "ok 1 - a # SKIP no CUDA device"\n' >a.sh
    REQUIRE=cuda run judge ./a.sh
    [ "$status" -ne 0 ]
    REQUIRE=mpi run judge ./a.sh
    [ "$status" -eq 0 ]
}

@test "a script that dies, or exits with failure after good tests, fails" {
    printf 'echo 1..2; echo "ok 1 - a"; kill -9 $$\n' >a.sh
    run judge ./a.sh
    [ "$status" -ne 0 ]
    printf 'echo 1..1; echo "ok 1 - a"; exit 3\n' >b.sh
    run judge ./b.sh
    [ "$status" -ne 0 ]
}

@test "unit tests: assertions, bounds with NaN, crashes and exits fail; skips do not" {
    cat >t.c <<'C'
#include "check.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
static void good(void) { assert_int_equal(1, 1); CHECK_AT_MOST(1, 1, "error"); }
static void unequal(void) { assert_int_equal(1, 2); }
static void nan_error(void) { CHECK_AT_MOST(NAN, 1, "error"); }
static void crash(void) { raise(SIGSEGV); }
static void skipped(void) { check_skip("no such thing"); }
static void leaves(void) { exit(0); }
CHECK_MAIN({"good", good}, {"unequal", unequal}, {"nan", nan_error}, {"crash", crash}, {"skipped", skipped}, {"leaves", leaves})
C
    "$CC" -D_GNU_SOURCE -I"$TOP/tests" -o t t.c "$TOP/tests/check.c" -lcmocka -lm
    run ./t
    [ "$status" -ne 0 ]
    [ "$(grep -cE '^ok (1|5) ' <<<"$output")" -eq 2 ]
    [ "$(grep -cE '^not ok (2|3|4|6) ' <<<"$output")" -eq 4 ]
    grep -q '^ok 5 - skipped # SKIP no such thing' <<<"$output"
    [ -z "$(find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'check.*')" ]
}

@test "the layers test names a violation" {
    cp -r "$TOP/tests" "$TOP/common" "$TOP/filters" .
    bash tests/layers.sh
    echo '#include "operator/operator.h"' >>common/base/hash.c
    echo '#include <jansson.h>' >>common/tensor/dtype.c
    echo '#include <cblas.h>' >>filters/quantize.c
    mkdir common/attic
    run bash tests/layers.sh
    [ "$status" -ne 0 ]
    [ "$(grep -c '^not ok' <<<"$output")" -eq 4 ]
    [[ $output == *'common/base/hash.c includes operator/operator.h'* ]]
}
