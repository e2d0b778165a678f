from airflow_provider_portkey.operators.batch import PortkeyCreateBatchOperator

create = PortkeyCreateBatchOperator(
    task_id="create",
    input_path="s3://aws_default@bucket/requests.jsonl",
    extra_body={"model": "amazon.nova-lite-v1:0", "role_arn": "arn:aws:iam::123456789012:role/batch"},
    headers={
        "x-portkey-aws-s3-bucket": "bucket",
        "x-portkey-aws-region": "eu-west-1",
        "x-portkey-provider-model": "amazon.nova-lite-v1:0",
    },
)
