make                                # prints all targets
make test ARGS="tests/unit -x -q"   # some tests, on the newest Airflow
make lint                           # ruff, codespell and mypy
.ci/run test 2.11                   # one leg: the suite beside the installed wheel, on that Airflow
.ci/run lowest                      # what dependencies can break, with the lowest version of each
.ci/run                             # all legs; everything must pass before a change is merged
pre-commit install                  # checks each commit
