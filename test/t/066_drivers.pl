# What drivers send finds the function that is meant: literals without a type, and parameters of each driver's own kinds, with all
# arguments. Each program of test/drivers executes the same calls, and PostgreSQL counts which of the functions was called. A
# driver takes part where it is: test/setup installs those of Python in CI, npm can install that of Node, and that of Java is Debian's.

use strict;
use warnings FATAL => 'all';

use FindBin ();
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PublishTest;

my $programs = "$FindBin::RealBin/../drivers";
my $dir = PostgreSQL::Test::Utils::tempdir('drivers');
my $JDBC = '/usr/share/java/postgresql.jar';

sub works { my ($command) = @_; return system("$command >/dev/null 2>&1") == 0; }

# Debian's Python knows its packages, whichever one is first.
sub python
{
	my ($module) = @_;
	my ($python) = grep { works("$_ -c 'import $module'") } 'python3', '/usr/bin/python3';
	return $python && "$python '$programs/${module}_calls.py'";
}

# How each is started, or nothing where it is not there
my %DRIVERS = (
	psycopg2 => sub { python('psycopg2') },
	asyncpg => sub { python('asyncpg') },
	'node-postgres' => sub {
		my $path = "NODE_PATH='$dir/node_modules:/usr/share/nodejs'";
		return works("$path node -e 'require(\"pg\")'") || works("node --version") && works("npm install --prefix '$dir' --cache '$dir/npm' --no-audit --no-fund --silent pg\@8")
			? "$path node '$programs/pg_calls.js'" : undef;
	},
	pgjdbc => sub { -e $JDBC && works('javac -version') ? "java -cp '$JDBC' '$programs/JdbcCalls.java'" : undef });

# All that is asked for here is known to a newer server.
my $nats = NatsServer->new(name => 'newer', binary => $ENV{NATS_SERVER_NEW}, jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('D', ['d.>'], allow_msg_ttl => \1, allow_rollup_hdrs => \1);
$client->create_stream('COUNT', ['count.>'], allow_msg_counter => \1);
$client->create_stream('LATER', [ 'later.>', 'schedule.later.>' ], allow_msg_schedules => \1);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url, listen_addresses => '127.0.0.1', track_functions => 'all');
my $user = $node->safe_psql('postgres', 'SELECT current_user');

# ---- The calls: the SQL, its parameters, and the type of the payload of the function that is meant

my @SENDING = qw(nats_publish nats_publish_async nats_publish_on_commit);
my %NULLS = (nats_publish => 10, nats_publish_async => 11, nats_publish_on_commit => 10, nats_publish_outbox => 3);
my @FUNCTIONS = sort keys %NULLS;
my $LATER = '2100-01-01T00:00:00+00:00';

sub call
{
	my ($function, $form, $arguments, @parameters) = @_;
	return { function => $function, form => $form, sql => "SELECT $function($arguments)", parameters => \@parameters };
}

sub calls_of_each
{
	my ($driver, $function) = @_;
	return (call($function, 'text', q('d.literal', 'payload')),
		call($function, 'text', q('d.literal', '{"a": 1}', '{"Name": "value"}', 'literal-' || gen_random_uuid())),
		call($function, 'text', q('d.literal', 'payload') . ', NULL' x $NULLS{$function}),
		call($function, 'text', q($1, $2), 'text:d.text', 'text:payload'),
		call($function, 'bytea', q($1, $2::bytea), 'text:d.bytes', 'bytes:00ff'),
		# of those that send bytes with their type
		$driver =~ /^(?:psycopg2|pgjdbc)$/ ? call($function, 'bytea', q($1, $2), 'text:d.bytes', 'bytes:00ff') : (),
		(map { call($function, $_, "\$1, \$2::$_", 'text:d.json', 'json:{"a": 1}') } qw(json jsonb)),
		call($function, 'text', q($1, $2, headers => $3::jsonb, msg_id => $4), 'text:d.named', 'text:payload', 'json:{"Name": "value"}', "text:$driver-$function"));
}

sub calls_of_sending
{
	my ($function) = @_;
	return (call($function, 'text', q('d.new', 'payload', ttl => '1 hour', rollup => 'subject')),
		call($function, 'text', q($1, $2, ttl => $3, rollup => $4), 'text:d.new', 'text:payload', 'seconds:3600', 'text:subject'),
		call($function, 'text', q('d.new', 'payload', expect_stream => 'D', expect_last_subject_seq => '0', expect_last_subject_seq_subject => 'd.none.>')),
		call($function, 'text', q($1, $2, expect_stream => $3, expect_last_subject_seq => $4, expect_last_subject_seq_subject => $5),
			'text:d.new', 'text:payload', 'text:D', 'integer:0', 'text:d.none.>'),
		call($function, 'text', q('count.it', '', increment => '1')),
		call($function, 'text', q($1, '', increment => $2), 'text:count.it', 'number:2'));
}

sub calls_for_later
{
	my ($function, $subject) = @_;
	return (call($function, 'text', "'$subject', 'payload', deliver_at => '$LATER'"),
		call($function, 'text', q($1, $2, deliver_at => $3), "text:$subject", 'text:payload', "time:$LATER"));
}

sub calls
{
	my ($driver) = @_;
	return ((map { calls_of_each($driver, $_) } @FUNCTIONS), (map { (calls_of_sending($_), calls_for_later($_, 'later.it')) } @SENDING),
		calls_for_later('nats_publish_outbox', 'd.later'));
}

# The counts of one kind of thing
sub counted { my %count; $count{$_}++ foreach @_; return [ map { "$_: $count{$_}" } sort keys %count ]; }

# What PostgreSQL has counted, when as many as there should be are
sub functions_called
{
	my ($count) = @_;
	my $ours = "funcname = ANY ('{@{[ join ',', @FUNCTIONS ]}}')";
	$node->poll_query_until('postgres', "SELECT coalesce(sum(calls), 0) >= $count FROM pg_stat_user_functions WHERE $ours");
	return [ split /\n/, $node->safe_psql('postgres', <<"END") ];
SELECT funcname || ' ' || proargtypes[1]::regtype || ': ' || calls FROM pg_stat_user_functions JOIN pg_proc ON pg_proc.oid = funcid
WHERE $ours ORDER BY (funcname || ' ' || proargtypes[1]::regtype) COLLATE "C"
END
}

# Its first parameter or its first literal
sub subject_of
{
	my ($call) = @_;
	my ($subject) = ($call->{parameters}[0] // $call->{sql}) =~ /^(?:text:|SELECT \w+\(')([\w.]+)/;
	return $subject;
}

foreach my $driver (sort keys %DRIVERS)
{
	SKIP:
	{
		my $command = $DRIVERS{$driver}->();
		skip "$driver is not there", 7 unless $command;
		# npm and Java can take so long that a client that is silent is left
		$client = NatsClient->new(url => $nats->url);
		$client->js("STREAM.PURGE.$_", {}) foreach qw(D COUNT LATER);
		$node->safe_psql('postgres', 'TRUNCATE nats_outbox; SELECT pg_stat_reset()');

		my @calls = calls($driver);
		my $lines = join '', map { join("\t", $_->{sql}, @{ $_->{parameters} }) . "\n" } @calls;
		my ($output, $errors);
		IPC::Run::run([ 'sh', '-c', "$command 127.0.0.1 @{[ $node->port ]} $user" ], '<', \$lines, '>', \$output, '2>', \$errors);
		my @results = split /\n/, $output;
		my @failed = map { "$calls[$_]{sql}: " . ($results[$_] // 'no answer') } grep { ($results[$_] // '') ne 'ok' } 0 .. $#calls;
		is_deeply(\@failed, [], "$driver: each call is one of a function") or diag $errors;
		is_deeply(functions_called(scalar @calls), counted(map { "$_->{function} $_->{form}" } @calls), "$driver: and of the one that is meant");

		# By somebody else. What rolls up its subject leaves no other message there.
		my @stored = grep { /^d\.(?!new)/ } map { subject_of($_) } grep { $_->{function} ne 'nats_publish_outbox' } @calls;
		is_deeply(counted(grep { $_ ne 'd.new' } map { $_->{subject} } $client->stream_messages('D')), counted(@stored), "$driver: each message is stored");
		is_deeply(counted(map { "$_->{subject} $_->{payload}" } grep { $_->{subject} eq 'd.bytes' } $client->stream_messages('D')),
			[ "d.bytes \0\xff: " . grep { $_ eq 'd.bytes' } @stored ], "$driver: its bytes are those that were sent");
		is((map { $_->{payload} } $client->stream_messages('COUNT'))[-1], '{"val":"9"}', "$driver: counters count");
		my @waiting = grep { $_->{subject} =~ /^schedule\.later\.it\./ && $_->{payload} eq 'payload' } $client->stream_messages('LATER');
		is(scalar(@waiting), 2 * @SENDING, "$driver: messages wait for later in the stream");
		is($node->safe_psql('postgres', q(SELECT count(*) || ' ' || count(next_attempt_at) || ' ' || max(next_attempt_at AT TIME ZONE 'UTC') FROM nats_outbox)),
			(scalar grep { $_->{function} eq 'nats_publish_outbox' } @calls) . ' 2 2100-01-01 00:00:00', "$driver: and in the outbox");
	}
}

done_testing();
