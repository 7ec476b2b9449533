# Executes calls with asyncpg, as test/t/066_drivers.pl describes them: python3 asyncpg_calls.py HOST PORT USER <CALLS
import asyncio, sys
import asyncpg

sys.dont_write_bytecode = True
from calls import read_calls

async def main():
    connection = await asyncpg.connect(host=sys.argv[1], port=int(sys.argv[2]), user=sys.argv[3], database='postgres')
    for sql, values in read_calls():
        try:
            await connection.fetch(sql, *values)
            print('ok')
        except asyncpg.PostgresError as error:
            print(error.sqlstate, error)
    await connection.close()

asyncio.run(main())
