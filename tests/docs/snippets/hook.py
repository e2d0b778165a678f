from airflow_provider_portkey.hooks.portkey import PortkeyHook

hook = PortkeyHook("portkey_default")
for batch in hook.list_batches():
    print(batch.id, batch.status, batch.request_counts.completed)
