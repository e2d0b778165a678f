pip install airflow-provider-portkey
