# Consumers that nobody here wrote read published changes: the JavaScript SDK of CloudEvents, and the client `nats` of npm.

use strict;
use warnings FATAL => 'all';

use FindBin;
use JSON::PP;

use PostgreSQL::Test::Utils;
use Test::More;

use PublishTest;

my $modules = PostgreSQL::Test::Utils::tempdir('modules');
plan skip_all => 'npm is not there' if system('npm --version >/dev/null 2>&1') != 0;
plan skip_all => 'npm cannot install cloudevents and nats here'
	if system("npm install --prefix '$modules' --cache '$modules/cache' --no-audit --no-fund --silent cloudevents\@10 nats\@2 >/dev/null 2>&1") != 0;

my ($nats, $client) = nats_with_stream('C', ['c.>']);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url);
my $json = JSON::PP->new->allow_nonref->canonical;

sub sql { my ($sql) = @_; utf8::encode($sql); return $node->safe_psql('postgres', $sql); }
sub literal { my ($text) = @_; return defined $text ? "'" . ($text =~ s/'/''/gr) . "'" : 'NULL'; }
sub identifier { my ($name) = @_; return '"' . ($name =~ s/"/""/gr) . '"'; }

# What the consumer makes of what is in the stream, which is empty then.
sub consumed
{
	my $output = PostgreSQL::Test::Utils::tempdir('consumed') . '/output';
	local $ENV{NODE_PATH} = "$modules/node_modules";
	is(system("node '$FindBin::RealBin/../consumers/read.js' " . $nats->url . " C >'$output' 2>&1"), 0, 'the consumer has read the stream')
		or diag(slurp_file($output));
	my @messages = map { $json->utf8->decode($_) } split /\n/, slurp_file($output);
	is_deeply([ map { "$_->{subject}: $_->{error}" } grep { $_->{error} } @messages ], [], 'and understood it');
	$client->purge('C');
	return @messages;
}

sub decoded { my ($token) = @_; return $token eq '%00' ? undef : $token eq '%' ? '' : do { $token =~ s/%(..)/chr hex $1/ge; utf8::decode($token); $token }; }

# ---- Names and values

my @NAMES = ('plain', 'Order Items', 'a.b', "gr\x{f6}\x{df}e", '"q"', '%41', 'sl/as\\h', '?#[]@', '{"a":1}', "line\nline", '%', '..', "\x{1f418}");
my @VALUES = ('', '%', '%00', '100%', 'x.y', 'z', 'x', 'y.z', "\x01", "\x7f", ' ', "gr\x{f6}\x{df}e", "\x{1f418}", '"', "a\r\nb", '*', '>', 'a' x 300, undef);

foreach my $name (@NAMES)
{
	my ($table, $schema) = (identifier($name), identifier("s $name"));
	sql("CREATE SCHEMA $schema; CREATE TABLE $schema.$table ($table text PRIMARY KEY, v int);
		SELECT nats_publish_table(" . literal("$schema.$table") . ", 'c.{op}', format => 'cloudevents', old => true);
		INSERT INTO $schema.$table VALUES (" . literal($name) . ", 1);
		UPDATE $schema.$table SET v = 2; DELETE FROM $schema.$table; TRUNCATE $schema.$table");
}
my @messages = consumed();
is(scalar(@messages), 4 * @NAMES, 'all changes of tables with odd names');
is(scalar(grep { $_->{event}{id} ne decoded($_->{headers}{'ce-id'}) } @messages), 0, 'the id is that of the header');
is(scalar(keys %{ { map { $_->{event}{id} => 1 } @messages } }), scalar(@messages), 'and each its own');
my @sources = map { my @path = split m{/}, $_->{event}{source}, -1; [ map { decoded($_) } @path ] } grep { $_->{event}{type} eq 'nats_publish.insert' } @messages;
is_deeply(\@sources, [ map { [ '', 'postgresql', 'postgres', "s $_", $_ ] } @NAMES ], 'each source has the names as they are');
is_deeply([ map { decoded($_->{event}{subject}) } grep { $_->{event}{type} eq 'nats_publish.update' } @messages ], \@NAMES, 'each subject the key');
is(scalar(grep { exists $_->{event}{subject} != ($_->{event}{type} ne 'nats_publish.truncate') } @messages), 0, 'which TRUNCATE has not');
is(scalar(grep { $_->{event}{data}{op} ne $_->{headers}{'Pg-Op'} } @messages), 0, 'and the data is that of json');

sql("CREATE TABLE pairs (a text, b text); SELECT nats_publish_table('pairs', 'c.pairs', format => 'cloudevents', key => '{a,b}', msg_id => '{a}.{b}')");
my @pairs = map { my $a = $_; map { [ $a, $_ ] } @VALUES } @VALUES;
sql('INSERT INTO pairs VALUES ' . join(', ', map { '(' . literal($_->[0]) . ', ' . literal($_->[1]) . ')' } @pairs));
@messages = consumed();
is_deeply([ map { [ map { decoded($_) } split(/\./, $_->{event}{subject}, -1) ] } @messages ], \@pairs, 'the key can be read back, whatever is in it');
is_deeply([ map { [ map { decoded($_) } split(/\./, $_->{event}{id}, -1) ] } @messages ], \@pairs, 'and so can an id');
is(scalar(grep { "$_->{event}{subject}$_->{event}{id}" =~ /[\x00-\x1f\x7f]/ } @messages), 0, 'without control characters');

# ---- Values of each type, in each format

sql(<<'END');
CREATE TYPE mood AS ENUM ('ok', 'not "ok"');
CREATE TYPE part AS (n int, at timestamptz);
CREATE TABLE types (id int PRIMARY KEY, b boolean, i int8, n numeric, f float8, t text, c char(3), by bytea, d date, ts timestamp, tz timestamptz, ti time,
	iv interval, u uuid, j json, jb jsonb, a int[], ta text[], r tstzrange, m mood, p part, ip inet, x xml, mo money, cl regclass);
INSERT INTO types VALUES (1, true, 9007199254740991, 1.25, 'NaN', E'\x01"\\' || U&'\fffd', 'a', '\x00ff', '2024-01-01', '2024-01-01 00:00', '2024-01-01 00:00+00',
	'12:00', '1 year', '00000000-0000-0000-0000-000000000001', '{"a": [1, null]}', '"x"', '{1,NULL}', '{"a,b",NULL}', '[2024-01-01 00:00+00,)', 'not "ok"', (1, '2024-01-01 00:00+00'),
	'10.0.0.1', '<a b="c"/>', '1.5', 'types'), (2, false, 0, 'NaN', 'Infinity', '', '', '', 'infinity', '-infinity', 'infinity', '00:00', '0', NULL, 'null', 'null', '{}', '{}', 'empty', NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO types (id) VALUES (3);
END
foreach my $format (qw(json cloudevents debezium))
{
	sql("SELECT nats_publish_table('types', 'c.{op}.{id}', format => '$format', old => true)");
	sql("UPDATE types SET b = NOT coalesce(b, false)");
	@messages = consumed();
	my @rows = map { $json->decode($_) } split /\n/, sql("SET lc_monetary = 'C'; SET timezone = UTC; SET search_path = pg_catalog; SELECT to_json(row) FROM public.types AS row ORDER BY id");
	is_deeply([ map { $_->{data}{ $format eq 'debezium' ? 'after' : 'new' } } @messages ], \@rows, "$format: the rows are as PostgreSQL has them");
	is_deeply([ map { $_->{event}{data} } @messages ], [ map { $_->{data} } @messages ], 'and the data of the events') if $format eq 'cloudevents';
}

# ---- The end of a transaction

sql("CREATE TABLE ended (id int PRIMARY KEY); SELECT nats_publish_table('ended', 'c.ended', format => 'cloudevents', transaction => true, transaction_end => 'c.end');
	BEGIN; INSERT INTO ended VALUES (1), (2); DELETE FROM ended WHERE id = 1; COMMIT");
@messages = consumed();
is_deeply([ map { $_->{event}{type} } @messages ], [ (map { "nats_publish.$_" } qw(insert insert delete commit)) ], 'the end of a transaction is an event, too');
is_deeply([ map { $_->{event}{data}{tx}{n} } @messages ], [ 1, 2, 3, undef ], 'of what was numbered');
is_deeply([ @{ $messages[-1]{event} }{qw(source subject)} ], [ '/postgresql/postgres', undef ], 'from the database');
is($messages[-1]{event}{data}{n}, 3, 'with the count');

done_testing();
