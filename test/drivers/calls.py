# What the programs in Python have in common: the calls that test/t/066_drivers.pl writes, each with its values.
import datetime, decimal, sys

TYPES = {
    'text': str,
    'bytes': bytes.fromhex,
    'json': str,
    'number': decimal.Decimal,
    'integer': int,
    'seconds': lambda value: datetime.timedelta(seconds=int(value)),
    'time': datetime.datetime.fromisoformat,
}

def read_calls():
    for line in sys.stdin:
        sql, *parameters = line.rstrip('\n').split('\t')
        yield sql, [TYPES[kind](value) for kind, value in (p.split(':', 1) for p in parameters)]
