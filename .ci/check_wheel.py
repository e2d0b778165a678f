"""Check that a wheel has what Airflow and type checkers need, and no file from outside of the package."""

import sys
import zipfile

with zipfile.ZipFile(sys.argv[1]) as wheel:
    names = wheel.namelist()
    [path] = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    entry_points = wheel.read(path).decode()

assert "airflow_provider_portkey/py.typed" in names, names
assert "[apache_airflow_provider]" in entry_points, entry_points
assert "provider_info = airflow_provider_portkey.get_provider_info:get_provider_info" in entry_points, entry_points
assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names), names
unexpected = [n for n in names if not n.startswith(("airflow_provider_portkey/", "airflow_provider_portkey-"))]
assert not unexpected, unexpected
print(f"{sys.argv[1]}: {len(names)} files, all as expected")
