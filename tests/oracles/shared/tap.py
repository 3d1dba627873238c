"""tap - what the oracle scripts share: checks as TAP lines, sentences of our programs, a scratch directory."""
import os
import subprocess
import sys
import tempfile

BIN = os.path.abspath(os.environ.get("BIN", os.path.join(os.path.dirname(__file__), "..", "..", "..", "bin")))
count, failed = 0, 0


def check(good, what, skip=None):
    global count, failed
    count += 1
    failed += not good
    print(f"{'ok' if good else 'not ok'} {count} - {what}{f' # SKIP {skip}' if skip else ''}", flush=True)


def shell(command):
    """A sentence of the programs in $BIN."""
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True,
                   env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"})


def finish():
    """Prints the plan and exits."""
    print(f"1..{count}")
    sys.exit(failed != 0)


def run(main):
    """main() in a scratch directory, and finish()."""
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        try:
            main()
        finally:
            os.chdir("/")
    finish()
