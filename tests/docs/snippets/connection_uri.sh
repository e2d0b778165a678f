export AIRFLOW_CONN_PORTKEY_DEFAULT='portkey://:pk-...@gateway.example.com:8443/?virtual_key=openai-prod'
