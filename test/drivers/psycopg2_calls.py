# Executes calls with psycopg2, as test/t/066_drivers.pl describes them: python3 psycopg2_calls.py HOST PORT USER <CALLS
import re, sys
import psycopg2

sys.dont_write_bytecode = True
from calls import read_calls

connection = psycopg2.connect(host=sys.argv[1], port=sys.argv[2], user=sys.argv[3], dbname='postgres')
connection.autocommit = True
cursor = connection.cursor()
for sql, values in read_calls():
    try:
        cursor.execute(re.sub(r'\$\d+', '%s', sql), values or None)
        print('ok')
    except psycopg2.Error as error:
        print(error.pgcode, str(error).splitlines()[0])
