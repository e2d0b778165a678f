export AIRFLOW_CONN_PORTKEY_DEFAULT='{"conn_type": "portkey", "host": "http://127.0.0.1:8787", "password": "pk-standin-0123456789", "extra": {"virtual_key": "openai-standin"}}'
