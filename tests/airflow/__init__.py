"""DAG runs in a real Airflow."""
