export AIRFLOW_CONN_PORTKEY_DEFAULT='{"conn_type": "portkey", "host": "http://gateway.example.com:8787", "extra": {"provider": "openai", "headers": {"Authorization": "Bearer sk-..."}}}'
