
# SQL that nobody would write: every function with every kind of bad argument, then the random queries of sqlsmith. Each
# returns or raises an error that is meant for users; no backend crashes, and the relay goes on.
#
# NATS_SQLSMITH_SECONDS says for how long; NATS_FUZZ_SEED repeats a run.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use PsqlSession;
use PublishTest;
use RelayTest;

my $SECONDS = $ENV{NATS_SQLSMITH_SECONDS} // (($ENV{NATS_PUBLISH_CI} // '') eq 'yes' ? 90 : 60);
my $QUERIES_AT_A_TIME = 50;

my $seed = $ENV{NATS_FUZZ_SEED} // time;
$seed = int($seed) % 1_000_000_000;
note("NATS_FUZZ_SEED=$seed");

my ($nats) = nats_with_stream('T', [ 't.>', 'bogus', 'public.>' ], max_bytes => 100_000_000);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	# ANALYZE needs the operators that are taken away below
	'autovacuum' => 'off',
	'nats_publish.ack_timeout' => '200ms',
	'nats_publish.commit_timeout' => '500ms',
	'nats_publish.connect_timeout' => '5s',
	'statement_timeout' => '2s',
	'lock_timeout' => '1s',
	'track_functions' => 'all',
	'log_statement' => 'none',
	'log_error_verbosity' => 'verbose');
my $admin = PsqlSession->new($node, settings => { statement_timeout => '0' });

# sqlsmith finds functions in pg_proc, of which it is shown one that makes ours frequent, and leaves out those that stop
# servers. Operators that it uses wrongly are taken away. The words are what it can find as arguments.
$admin->value(<<'END');
CREATE ROLE smith LOGIN;
CREATE TABLE published (id int PRIMARY KEY, name text, doc jsonb, raw bytea, at timestamptz);
INSERT INTO published SELECT i, 'name ' || i, '{"a": [1, "x"]}', '\x00ff', now() FROM generate_series(1, 20) i;
ALTER TABLE published OWNER TO smith;
SELECT nats_publish_table('published', 't.{op}.{id}', old => true);
CREATE TABLE outboxed (id int PRIMARY KEY, subject text, payload text);
SELECT nats_publish_table('outboxed', 't.{subject}', delivery => 'outbox', payload => 'payload', level => 'statement');
CREATE VIEW words AS
	SELECT * FROM (VALUES
		('t.a', '{"a": 1}'::jsonb, '{"Name": "value"}'::json, '\x00ff'::bytea, 1::bigint, '1 s'::interval, 'published'::regclass, '{id}'::text[], true),
		('', '[]', '[]', '', 0, '0', 'outboxed', '{}', false),
		('T', '{"max_msgs": 10}', 'null', '\x', -1, '-1 day', 'nats_outbox', '{insert,delete}', NULL),
		('t.{id}.{op}', '{"A": ["b", 1, true]}', '"x"', NULL, 9223372036854775807, '1000000 years', 'pg_class', '{t.b}', true),
		('row', 'null', '{}', 'text', 2, '00:00:00.1', 'published_pkey', '{NULL,""}', true),
		('statement', NULL, NULL, 'more', 3, NULL, NULL, NULL, true),
		(repeat('long', 300000), '1', '1', '\xff', -9223372036854775808, '1 mon', 0::regclass, '{{a},{b}}', false),
		(E't.\u00e4\u20ac', '"\u0001"', '"\u0001"', '\x0d0a', 4, '2 s', 'nats_outbox_dead', '{*}', true),
		(NULL, '{"Nats-Msg-Id": "1"}', '{"a": {}}', '\x7b7d', 5, '3 s', 'nats_relay', '{>}', true)) AS v(txt, doc, js, raw, n, span, rel, list, flag);
CREATE VIEW futures AS SELECT * FROM nats_futures();
CREATE VIEW counters AS SELECT * FROM nats_session_stats();
CREATE VIEW change_options AS SELECT t.oid AS trigger, o.* FROM pg_trigger t, LATERAL nats_change_options(t.oid) o;
GRANT ALL ON ALL TABLES IN SCHEMA public TO smith;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO smith;
CREATE SCHEMA smith;
GRANT USAGE ON SCHEMA smith TO smith;
CREATE VIEW smith.pg_proc AS
	SELECT * FROM pg_catalog.pg_proc
	WHERE proname ~ '^nats_' OR (pronamespace = 'pg_catalog'::regnamespace AND provolatile = 'i' AND
		proname IN ('lower', 'upper', 'reverse', 'md5', 'length', 'left', 'abs', 'array_append', 'jsonb_pretty', 'array_to_string'));
GRANT SELECT ON smith.pg_proc TO smith;
SET allow_system_table_mods = on;
DELETE FROM pg_operator WHERE '{anymultirange,anyrange,anyelement,anyarray,anyenum,point,polygon,box,path,lseg,line,circle}'::regtype[] && ARRAY[oprleft, oprright]::regtype[];
END

# ---- What must not be found in the log

# The function definitions in our files: PostgreSQL has files of the same names.
my %our_functions;
foreach my $path (glob "$FindBin::RealBin/../../src/{*,*/*}.c")
{
	my ($file) = $path =~ m{([^/]+)$};
	$our_functions{"$_, $file"} = 1 foreach slurp_file($path) =~ /^(\w+)\(/mg;
}
cmp_ok(scalar(keys %our_functions), '>', 300, 'our functions are known');

# Errors of the class that is for bugs: all, or only ours. With their first line and place.
sub internal_errors
{
	my ($log, $only_ours) = @_;
	my @found;
	while ($log =~ /^\S+ \S+ \S+ \[(\d+)\].*? (?:ERROR|FATAL|WARNING):  (XX\w{3}: .*)$/mg)
	{
		my ($pid, $error) = ($1, $2);
		my ($place) = substr($log, pos $log, 20000) =~ /^\S+ \S+ \S+ \[$pid\].*?LOCATION:  (\w+, \w+\.c)/m;
		push @found, "$error ($place)" if !$only_ours || $our_functions{$place} || $error =~ /nats/;
	}
	return @found;
}

sub nothing_bad
{
	my ($what, $offset, $only_ours) = @_;
	my $log = slurp_file($node->logfile, $offset);
	my @internal = internal_errors($log, $only_ours);
	is(scalar(@internal), 0, "$what: no internal error") or diag(join "\n", splice(@internal, 0, 10));
	my @crashes = $log =~ /^.*(?:terminated by signal|PANIC:|TRAP:|was terminated|exited with exit code).*$/mg;
	is(scalar(@crashes), 0, 'no crash') or diag(join "\n", splice(@crashes, 0, 10));
	return;
}

# ---- Each function with each bad argument

my %BAD = (
	text => [ q(''), q('t.a'), q('bogus'), q(' '), q(E'\x01\n\r'), q('%'), q('{'), q('{id}'), q('>'), q(repeat('x', 1000000)), q(repeat('a.', 500000)), q(E'\u20ac') ],
	bytea => [ q(''), q('\x00'), q(decode(repeat('00', 2000000), 'hex')) ],
	json => [ q('{}'), q('null'), q('1'), q('"\u0000"'), q((repeat('[', 1000) || repeat(']', 1000))::json), q(to_json(repeat('x', 1000000))) ],
	jsonb => [
		q('{}'), q('[]'), q('null'), q('1e300'), q('"x"'), q('{"": ""}'), q('{"a": {}}'), q('{"A": "\r\nB: c"}'), q('{"a b": 1}'), q('{"A": [[]]}'), q('{"max_msgs": "x"}'), q('{"Nats-Msg-Id": ""}'),
		q((repeat('[', 1000) || repeat(']', 1000))::jsonb), q(jsonb_build_object('A', repeat('x', 1000000))), q(jsonb_build_object(repeat('A', 1000000), 1)) ],
	bigint => [ 0, -1, 1, '9223372036854775807', q('-9223372036854775808') ],
	interval => [ q('0'), q('-1 s'), q('1 us'), q('1 s'), q('-1 mon'), q('178000000 years'), q('-178000000 years'), q(make_interval(secs => 1e12)), q('infinity'), q('-infinity') ],
	numeric => [ 0, q('NaN'), q('Infinity'), '0.5', q('-1'), q(repeat('9', 131072)), q('1e-1000') ],
	integer => [ 0, -1, 1, '2147483647', q('-2147483648') ],
	name => [ q(''), q('nats_publish_row'), q(repeat('x', 100)) ],
	'timestamp with time zone' => [ q('infinity'), q('-infinity'), q('294276-12-31'), q('4713-01-01 BC'), q('epoch'), 'now()' ],
	boolean => [ 'true', 'false' ],
	regclass => [ 0, q('published'), q('words'), q('pg_class'), q('pg_toast.pg_toast_1255'), q('published_pkey'), q('nats_outbox_id_seq'), '4294967295' ],
	regrole => [ 0, q('smith'), '4294967295' ],
	oid => [ 0, '4294967295', q((SELECT max(oid) FROM pg_trigger)) ],
	'text[]' => [ q('{}'), q('{NULL}'), q('{""}'), q('{{a},{b}}'), q('[5:6]={a,b}'), q('{id,id}'), q(array_fill('a'::text, ARRAY[100000])), q(ARRAY[repeat('x', 1000000)]) ]);
my %GOOD = (text => q('t.a'), bytea => q('x'), json => q('{}'), jsonb => q('{}'), bigint => 1, interval => q('1 s'), numeric => 1, integer => 1, name => q('nats_publish_row'), 'timestamp with time zone' => 'now()', boolean => 'true', regclass => q('published'), regrole => q('smith'), oid => 0, 'text[]' => q('{t.x}'));

# The functions of the extension: how it is called, and its arguments, each as "type name", with whether they are required.
my @functions = map { [ split /\|/ ] } split /\n/, $admin->value(<<'END');
SELECT CASE prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT ' END || proname, array_to_string(ARRAY(SELECT format('%s %s %s', format_type(t, NULL), proargnames[i], CASE WHEN i <= pronargs - pronargdefaults THEN 'required' ELSE 'optional' END)
	FROM unnest(proargtypes) WITH ORDINALITY AS a (t, i)), ',')
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'nats_publish' ORDER BY 1, 2
END

# A call in which each argument has this value, or is left out when that is undefined.
sub call
{
	my ($function, $arguments, %value) = @_;
	return "$function(" . join(', ', map { "$_->{name} => $value{$_->{name}}::$_->{type}" } grep { defined $value{ $_->{name} } } @$arguments) . ");\n";
}

sub calls
{
	my ($function, @arguments) = @_;
	my %required = map { ($_->{name} => $GOOD{ $_->{type} }) } grep { $_->{required} } @arguments;
	my @calls = (call($function, \@arguments, %required), call($function, \@arguments, map { ($_->{name} => 'NULL') } @arguments));
	foreach my $argument (@arguments)
	{
		die "no values of type $argument->{type}" unless $BAD{ $argument->{type} };
		push @calls, call($function, \@arguments, %required, $argument->{name} => $_) foreach 'NULL', @{ $BAD{ $argument->{type} } };
	}
	return @calls;
}

my @calls;
foreach my $function (@functions)
{
	my ($name, $arguments) = @$function;
	push @calls, calls($name, map { my ($type, $argument, $required) = /^(.*) (\w+) (\w+)$/; { type => $type, name => qq("$argument"), required => $required eq 'required' } } split /,/, $arguments // '');
}

# Runs a file in psql, each statement a transaction; a backend that has gone is seen.
sub run_file
{
	my ($what, $sql, %settings) = @_;
	my $path = PostgreSQL::Test::Utils::tempdir('calls') . '/calls.sql';
	append_to_file($path, $sql);
	my $session = PsqlSession->new($node, %settings);
	my $result = $session->run("\\o /dev/null\n\\i $path\n\\o\nSELECT 1", 60 + 3 * $QUERIES_AT_A_TIME);
	is($session->run('SELECT pg_backend_pid()')->{output}, $session->pid, "$what: the backend lives") or BAIL_OUT(substr($result->{error}, -2000));
	$session->close;
	$result->{errors} = () = $result->{error} =~ /^psql:\S+ ERROR: /mg;
	return $result;
}

foreach my $user (undef, 'smith')
{
	my $offset = log_length($node);
	my $who = $user // 'superuser';
	my $result = run_file("calls by $who", join('', @calls), user => $user, settings => { statement_timeout => '10s' });
	note(sprintf('%d calls, %d errors, %.1f s', scalar @calls, $result->{errors}, $result->{seconds}));
	cmp_ok($result->{errors}, '<', @calls * 0.9, 'many calls are good enough');
	nothing_bad("calls by $who", $offset);
}

# ---- sqlsmith

# What chance must have called, however long that takes on a slow machine.
my @CALLED = ('nats_publish(_async|_on_commit|_outbox)?', qw(nats_publish_change nats_outbox_check nats_disconnect nats_server_info));

sub call_counts { return $admin->value(q(SELECT funcname, sum(calls) FROM pg_stat_user_functions WHERE funcname ~ '^nats_' GROUP BY 1 ORDER BY 1)); }

sub all_called
{
	my $counts = call_counts();
	return !grep { $counts !~ /^$_\|[1-9]/m } @CALLED;
}

SKIP:
{
	my $sqlsmith = (grep { -x } map { "$_/sqlsmith" } split /:/, $ENV{PATH})[0];
	skip 'there is no sqlsmith', 1 unless $sqlsmith;

	$admin->value('SELECT pg_stat_reset() \g /dev/null');
	my $offset = log_length($node);
	my $end = time + $SECONDS;
	my ($queries, $errors) = (0, 0);
	while (time < $end || (time < $end + 9 * $SECONDS && !all_called()))
	{
		my $user = $seed % 2 ? 'smith' : undef;
		# it only reads the catalogs, which may take long; its queries are ours to execute
		my $target = $node->connstr('postgres') . " options='-c search_path=smith,public,pg_catalog -c statement_timeout=0'" . ($user ? " user=$user" : '');
		my ($sql, $error) = run_command([ $sqlsmith, "--target=$target", '--exclude-catalog', '--dry-run', "--seed=$seed", "--max-queries=$QUERIES_AT_A_TIME" ]);
		my $count = () = $sql =~ /;$/mg;
		is($count, $QUERIES_AT_A_TIME, 'sqlsmith has made queries') or BAIL_OUT($error);
		my $result = run_file("sqlsmith --seed=$seed", $sql, user => $user);
		$queries += $count;
		$errors += $result->{errors};
		$seed++;
	}
	note("$queries queries, $errors errors");
	nothing_bad('sqlsmith', $offset, 1);
	my $counts = call_counts();
	note($counts);
	like($counts, qr/^$_\|[1-9]/m, "it has called $_()") foreach @CALLED;
}

# ---- And all goes on

$admin->value('DELETE FROM nats_outbox; SELECT nats_relay_resume()');
is($admin->value(q(SELECT stream FROM nats_publish('t.a', 'x'))), 'T', 'a session can publish');
$admin->value(q(SELECT nats_publish_outbox('t.relayed', 'x')));
ok(wait_until_drained($admin), 'and the relay too');
nothing_bad('in all', 0, 1);

done_testing();
