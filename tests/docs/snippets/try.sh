make demo    # a real Airflow waits for a batch of an embedded stand-in, then runs the whole loop from records to answers
make test    # the whole test suite
