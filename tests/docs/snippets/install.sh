AIRFLOW=3.3.2 PYTHON=3.12
pip install airflow-provider-portkey "apache-airflow==$AIRFLOW" \
    --constraint "https://raw.githubusercontent.com/apache/airflow/constraints-$AIRFLOW/constraints-$PYTHON.txt"
