airflow connections add portkey_default --conn-type portkey \
    --conn-host https://gateway.example.com --conn-password pk-... \
    --conn-extra '{"virtual_key": "openai-prod"}'
