# Executes calls with asyncpg, as test/t/066_drivers.pl describes them: python3 asyncpg_calls.py HOST PORT USER <CALLS
import asyncio, datetime, decimal, sys
import asyncpg

TYPES = {
    'text': str,
    'bytes': bytes.fromhex,
    'json': str,
    'number': decimal.Decimal,
    'integer': int,
    'seconds': lambda value: datetime.timedelta(seconds=int(value)),
    'time': datetime.datetime.fromisoformat,
}

async def main():
    connection = await asyncpg.connect(host=sys.argv[1], port=int(sys.argv[2]), user=sys.argv[3], database='postgres')
    for line in sys.stdin:
        sql, *parameters = line.rstrip('\n').split('\t')
        values = [TYPES[kind](value) for kind, value in (p.split(':', 1) for p in parameters)]
        try:
            await connection.fetch(sql, *values)
            print('ok')
        except asyncpg.PostgresError as error:
            print(error.sqlstate, error)
    await connection.close()

asyncio.run(main())
