export AIRFLOW_CONN_PORTKEY_DEFAULT='{"conn_type": "portkey", "host": "https://gateway.example.com", "password": "pk-...", "extra": {"virtual_key": "openai-prod"}}'
