AIRFLOW__CORE__DAGS_FOLDER=$PWD/example_dags airflow dags test answer_records
