# Executes calls with psycopg2, as test/t/066_drivers.pl describes them: python3 psycopg2_calls.py HOST PORT USER <CALLS
import datetime, decimal, re, sys
import psycopg2

TYPES = {
    'text': str,
    'bytes': bytes.fromhex,
    'json': str,
    'number': decimal.Decimal,
    'integer': int,
    'seconds': lambda value: datetime.timedelta(seconds=int(value)),
    'time': datetime.datetime.fromisoformat,
}

connection = psycopg2.connect(host=sys.argv[1], port=sys.argv[2], user=sys.argv[3], dbname='postgres')
connection.autocommit = True
cursor = connection.cursor()
for line in sys.stdin:
    sql, *parameters = line.rstrip('\n').split('\t')
    values = [TYPES[kind](value) for kind, value in (p.split(':', 1) for p in parameters)]
    try:
        cursor.execute(re.sub(r'\$\d+', '%s', sql), values or None)
        print('ok')
    except psycopg2.Error as error:
        print(error.pgcode, str(error).splitlines()[0])
