
# What protects holds whatever it is given: a setting that can't be understood restricts, headers reach no further than
# allowed_subjects, what runs unasked in somebody else's session publishes nothing, and the settings' own connection can be
# forbidden. Of what only newer servers know, NATS_SERVER_NEW names the binary of one (2.12 or later).

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('T', [ 't.>', 'orders.>', 'secret.>' ], allow_rollup_hdrs => \1);

# Everything that is stored, as subjects.
sub stored { return join ' ', map { $_->{subject} } $client->stream_messages('T'); }

# What a mistyped URL must not lead to: any connection here is noted.
my $elsewhere = FakeServer->new(sub { my ($peer) = @_; $peer->note('connected'); $peer->handshake; $peer->hold; return; });
my $near = $elsewhere->url;

my $node = publishing_node('main', 'nats_publish.url' => $nats->url, autovacuum => 'off', max_worker_processes => 16);
$node->safe_psql('postgres', q(CREATE TABLE numbers AS SELECT generate_series(1, 1000) AS i; ANALYZE numbers;
	GRANT SELECT ON numbers TO PUBLIC; CREATE ROLE everybody; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO everybody));

my $PUBLISH = q(SELECT (nats_publish('t.a', 'x'::text)).stream);
my $SKIPPED = q(SELECT nats_publish('t.a', 'x'::text) IS NULL, (SELECT suppressed FROM nats_session_stats()));
my $HELD = q(SELECT nats_publish_on_commit('t.a', 'x'::text));

sub literal { return "'" . ($_[0] =~ s/'/''/gr) . "'"; }

# What a session gets for a command: its error, or its output.
sub outcome { my ($session, $sql) = @_; my $result = $session->run($sql); return $result->{sqlstate} || $result->{output}; }

# ---- Settings that can't be understood, of a role and of a database --------------------------------------------------

# For each: the setting, its values, the command, what comes of it, and what the doctor says.
my @closed = (
	[ 'publishing', [ 'dry-run', 'maybe', '', ' off', 'onn' ], $SKIPPED, 't|1', 'it counts as off' ],
	[ 'allowed_subjects', [ 't.>,', 't.>, orders.*>', 'orders..x', ' ', 't.> orders.>', '>.t' ], $PUBLISH, '42501',
		'no subject is allowed' ],
	[ 'url', [ '', "$near,", "$near, nats://b c", "http://127.0.0.1:4222", 'nats://user:HIDDEN@127.0.0.1:port' ],
		$PUBLISH, '22023', 'no connection is made' ],
	[ 'inbox_prefix', [ '', '_INBOX.>', '$JS.x' ], $PUBLISH, '22023', 'no connection is made' ],
	[ 'tls_handshake_first', [ '', 'maybe', '2' ], $PUBLISH, '22023', 'no connection is made' ],
	[ 'server_required', [ '', 'maybe', 'offf' ], $PUBLISH, '42501', 'it counts as on' ],
	[ 'commit_batch', [ '', 'atomik', 'one' ], $HELD, '0A000', 'it counts as atomic' ]);

# What is understood, by any of its names.
my @understood = (
	[ 'publishing', [ 'off', 'false', 'no', '0', 'FALSE' ], $SKIPPED, 't|1', 'off' ],
	[ 'publishing', [ 'on', 'true', 'yes', '1', 'On' ], $PUBLISH, 'T', 'on' ],
	[ 'publishing', [ 'dry_run', 'DRY_RUN' ], $SKIPPED, 't|1', 'dry_run' ],
	[ 'allowed_subjects', [ 'orders.>, t.*', '' ], $PUBLISH, 'T' ],
	[ 'tls_handshake_first', [ 'off', 'no' ], $PUBLISH, 'T' ],
	[ 'server_required', [ 'on', 'true', '1' ], $PUBLISH, '42501', 'on' ],
	[ 'server_required', [ 'off', '0' ], $PUBLISH, 'T', 'off' ],
	[ 'commit_batch', [ 'atomic', 'ATOMIC' ], $HELD, '0A000', 'atomic' ],
	[ 'commit_batch', [ 'pipelined' ], $HELD, '', 'pipelined' ]);

# A role for each value, set where the library is not loaded, so that nothing has looked at it. What lies below must not
# come through: other good values of the database and of the server are there.
my $roles = 0;
my $in = PsqlSession->new($node);
$in->value(q(ALTER DATABASE postgres SET nats_publish.allowed_subjects = 't.>, orders.>'; ALTER DATABASE postgres SET nats_publish.publishing = on));
sub role_with
{
	my ($setting, $value, $where) = @_;
	my $role = 'r' . ++$roles;
	$in->value("CREATE ROLE $role LOGIN IN ROLE everybody; ALTER ROLE $role $where SET nats_publish.$setting = " . literal($value));
	return $role;
}
foreach my $case (@closed, @understood)
{
	my $where = 0;
	push @$case, [ map { [ $_, role_with($case->[0], $_, $where++ % 2 ? 'IN DATABASE postgres' : '') ] } @{ $case->[1] } ];
}

# As an ordinary role, whose session begins with the setting; at most so many values of each.
sub check_settings
{
	my ($how, $most) = @_;
	my $some = sub { my ($all) = @_; return @$all[ 0 .. ($most < @$all ? $most : @$all) - 1 ]; };
	$client->purge('T');
	foreach my $case (@closed)
	{
		my ($setting, $values, $command, $expected, $effect, $of_roles) = @$case;
		foreach ($some->($of_roles))
		{
			my ($value, $role) = @$_;
			my $session = PsqlSession->new($node, user => $role);
			my $result = $session->run($command);
			is($result->{sqlstate} || $result->{output}, $expected, "$how: $setting = '$value'");
			unlike($result->{error}, qr/HIDDEN/, 'whose value is not told');
			like($result->{error}, qr/ERROR:  22023: invalid value for parameter "nats_publish\.$setting"\n.*HINT:  Until it has a valid value, no connection is made/s,
				'the error names the setting') if $expected eq '22023';
		}
		my $session = PsqlSession->new($node, user => $of_roles->[0][1]);
		like($session->value(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'settings')),
			qr/^failed.*nats_publish\.$setting has a bad value, so \Q$effect\E\./, "$how: $setting, the doctor says it");
		is($session->value('SELECT connects FROM nats_session_stats()'), 0, 'without a connection') if $expected eq '22023';
	}
	is($elsewhere->next_event(0.2), undef, "$how: nobody has connected elsewhere");
	is(stored(), '', "$how: nothing has got through");
	foreach my $case (@understood)
	{
		my ($setting, $values, $command, $expected, $shown, $of_roles) = @$case;
		($shown, $of_roles) = (undef, $shown) if ref $shown;
		foreach ($some->($of_roles))
		{
			my ($value, $role) = @$_;
			my $session = PsqlSession->new($node, user => $role);
			is(outcome($session, $command), $expected, "$how: $setting = '$value'");
			is($session->value("SHOW nats_publish.$setting"), $shown, 'by its first name') if defined $shown;
		}
	}
	return;
}

check_settings('loaded by the first call', 100);

# What the role may not set itself changes nothing of it; and after the load all is checked at once.
{
	my $session = PsqlSession->new($node, user => $closed[0][5][0][1]);
	$session->run("SET nats_publish.publishing = 'on'");
	is(outcome($session, $SKIPPED), 't|1', 'a bad value is not replaced by what the role has no right to set');

	my $superuser = PsqlSession->new($node);
	$superuser->value(q(SELECT nats_session_stats()));
	foreach my $case (@closed)
	{
		my ($setting, $values) = @$case;
		foreach my $value (map { literal($_) } @$values)
		{
			is($superuser->sqlstate("$_ nats_publish.$setting = $value"), '22023', "refused when the library is there: $_ $setting = $value")
				foreach 'SET', 'SET LOCAL', 'ALTER ROLE r1 SET', 'ALTER DATABASE postgres SET', 'ALTER SYSTEM SET';
		}
		is($superuser->sqlstate("CREATE FUNCTION bad() RETURNS int LANGUAGE sql SET nats_publish.$setting = 'a..b,' AS 'SELECT 1'"), '22023',
			"and of a function: $setting");
	}
	is(outcome($superuser, $PUBLISH), 'T', 'such attempts change nothing');
}

# Set by a superuser in the session, before the library is there: as it was set, and only for as long.
foreach my $case (@closed)
{
	my ($setting, $values, $command, $expected) = @$case;
	my ($good) = map { $_->[1][0] } grep { $_->[0] eq $setting && $_->[3] =~ /^(T|)$/ } @understood;
	my $value = literal($values->[1]);
	my $session = PsqlSession->new($node);
	$session->value("SET nats_publish.$setting = $value");
	is(outcome($session, $command), $expected, "SET before the library is there: $setting = $value");
	$session->value(defined $good ? "SET nats_publish.$setting = " . literal($good) : "RESET nats_publish.$setting");
	is(outcome($session, $PUBLISH), 'T', 'until it is set well');

	$session = PsqlSession->new($node);
	$session->run("BEGIN; SET LOCAL nats_publish.$setting = $value");
	is(outcome($session, "$command; COMMIT"), $expected, "SET LOCAL: $setting = $value");
	$session->run('ROLLBACK');
	is(outcome($session, $PUBLISH), 'T', 'for its transaction');
}
$in->value(q(CREATE FUNCTION bounded() RETURNS text LANGUAGE plpgsql SET nats_publish.allowed_subjects = 't.>,' AS
	$$BEGIN RETURN (nats_publish('t.f', 'x')).stream; EXCEPTION WHEN OTHERS THEN RETURN sqlstate; END$$));
is(PsqlSession->new($node)->value('SELECT bounded(); ' . $PUBLISH), "42501\nT", 'a function with a bad value, which is its own');

# What is no setting can't restrict: PostgreSQL says so when the library is loaded, and the doctor whenever it is asked
{
	my $role = role_with('allowed_subject', 't.>', '');
	my $session = PsqlSession->new($node, user => $role);
	like($session->error($PUBLISH), qr/^WARNING:  42602: invalid configuration parameter name "nats_publish.allowed_subject"/m, 'a setting with a misspelt name: a warning');
	like($session->value(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'settings')),
		qr/^warning.*"nats_publish\.allowed_subject" is set, but is not a setting of nats_publish/, 'which the doctor repeats');
}

# A parallel worker gets the values of its leader: all at once, from where they were set.
{
	my $session = PsqlSession->new($node);
	$session->value("SET nats_publish.$_->[0] = " . literal($_->[1][1])) foreach @closed;
	$session->value(q(SELECT set_config(name, 'on', false) FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')));
	$session->value('SELECT nats_session_stats()');
	like($session->value('EXPLAIN (ANALYZE, COSTS off) SELECT count(*) FROM numbers'), qr/Workers Launched: 1/, 'a parallel worker of a session with bad settings');
	is($session->value('SELECT count(*) FROM numbers'), '1000', 'works');
	is(outcome($session, $SKIPPED), 't|1', 'as the session is as it was');
}

# ---- In the configuration file -----------------------------------------------------------------------------------------

# Those of a database, for a session and for its relay.
sub database_with
{
	my ($name, $setting, $value) = @_;
	publishing_database($node, $name);
	$in->value("ALTER DATABASE $name SET nats_publish.$setting = " . literal($value));
	$node->safe_psql($name, q(CREATE TABLE noted (i int)));
	return;
}
database_with('quiet', publishing => 'ofw');
database_with('nowhere', url => "$near,");
$in->value("INSERT INTO nats_outbox (subject, payload) VALUES ('t.relayed', 'x')");
foreach my $database (qw(quiet nowhere))
{
	my $session = PsqlSession->new($node, dbname => $database);
	$session->value(q(INSERT INTO nats_outbox (subject, payload) VALUES ('t.relayed', 'x')));
}
$client->purge('T');

# The file's settings become these alone, by a reload or by a restart.
my $conf = $node->data_dir . '/protection.conf';
$node->append_conf('postgresql.conf', "include 'protection.conf'");
sub write_conf
{
	my (%settings) = @_;
	open(my $file, '>', $conf) or die "$conf: $!";
	print $file map { "$_ = '$settings{$_}'\n" } sort keys %settings;
	close $file;
	return;
}
sub reload_with { write_conf(@_); $node->reload; return; }
sub restart_with
{
	write_conf(@_);
	$node->stop;
	$node->start;
	$in = PsqlSession->new($node);
	return;
}

# Comes to be for a new session, and for one that is there.
sub becomes { my ($what, $session, $sql, $expected) = @_; return ok(wait_for($what, sub { outcome($session // PsqlSession->new($node), $sql) eq $expected }), $what); }

$in->value('ALTER DATABASE postgres RESET ALL');
my %bad = ('nats_publish.publishing' => 'offf', 'nats_publish.allowed_subjects' => 't.>,', 'nats_publish.url' => "$near,");
foreach my $setting (sort keys %bad)
{
	my ($case) = grep { "nats_publish.$_->[0]" eq $setting } @closed;
	my (undef, undef, $sql, $expected) = @$case;
	write_conf();
	reload_with($setting => $bad{$setting});
	becomes("$setting in postgresql.conf, where nothing is preloaded", undef, $sql, $expected);
	my $session = PsqlSession->new($node);
	is(outcome($session, $sql), $expected, 'it holds');
	reload_with();
	becomes('until a reload takes it back', $_, $PUBLISH, 'T') foreach undef, $session;

	my $log = log_length($node);
	restart_with(shared_preload_libraries => 'nats_publish', $setting => $bad{$setting});
	is(outcome(PsqlSession->new($node), $sql), $expected, "$setting at the start of a server that preloads");
	cmp_ok(scalar log_lines($node, $log, qr/WARNING:.*invalid value for parameter "$setting"/), '>', 0, 'which the log tells');
	reload_with(shared_preload_libraries => 'nats_publish');
	becomes('until a reload takes it back', undef, $PUBLISH, 'T');
	restart_with();
}
is($elsewhere->next_event(0.2), undef, 'nobody has connected elsewhere');

# A reload with a bad value changes nothing where the library is, as with any setting: what was in force stays so.
my @preload = (shared_preload_libraries => 'nats_publish');
restart_with(@preload, 'nats_publish.allowed_subjects' => 't.a');
my $log = log_length($node);
reload_with(@preload, 'nats_publish.allowed_subjects' => 't.>,', 'nats_publish.publishing' => 'ofw', 'nats_publish.url' => "$near,");
ok(wait_for('the reload', sub { log_lines($node, $log, qr/configuration file ".*" contains errors; unaffected changes were applied/) > 0 }), 'a bad reload is told');
is($_->sqlstate(q(SELECT nats_publish('t.b', 'x'))) . outcome($_, $PUBLISH), '42501T', 'and leaves what was there') foreach $in, PsqlSession->new($node);

# The relays: without a list that can be read there is none; with bad settings of its database, one publishes nothing.
restart_with(@preload, 'nats_publish.relay_databases' => 'postgres, "quiet');
is($in->value('SELECT count(*) FROM nats_relay'), 0, 'a list of databases that is none: no relay');
reload_with(@preload, 'nats_publish.relay_databases' => 'postgres, quiet, nowhere');
wait_for('the relays', sub { $in->value('SELECT count(pid) FROM nats_relay') == 3 });
wait_until_drained($in);
wait_for_state(PsqlSession->new($node, dbname => 'quiet'), 'off', 'quiet');
my $nowhere = PsqlSession->new($node, dbname => 'nowhere');
wait_for_state($nowhere, 'waiting', 'nowhere');
like(relay_column($nowhere, 'last_error', 'nowhere'), qr/invalid value for parameter "nats_publish\.url"/, 'a relay with a bad url says so');
is((() = stored() =~ /t\.relayed/g), 1, 'and only the one with good settings has published');
is($elsewhere->next_event(0.2), undef, 'nobody has connected elsewhere');
$nowhere->close;

restart_with(session_preload_libraries => 'nats_publish');
check_settings('session_preload_libraries', 2);
restart_with(@preload, 'nats_publish.relay_databases' => 'postgres');
check_settings('shared_preload_libraries', 2);

# ---- Options of foreign servers, where nothing has checked them --------------------------------------------------------

$in->value("CREATE SERVER main FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $nats->url}')");
$in->value(q(CREATE USER MAPPING FOR CURRENT_USER SERVER main OPTIONS (user 'u', password 'p')));
$in->value('ALTER FOREIGN DATA WRAPPER nats NO VALIDATOR');
foreach (
	[ SERVER => "SET url '$near,'", "SET url '${\ $nats->url}'", 'HV024' ],
	[ SERVER => 'DROP url', "ADD url '${\ $nats->url}'", 'HV024' ],
	[ SERVER => q(ADD tls_handshake_first 'maybe'), 'DROP tls_handshake_first', 'HV024' ],
	[ SERVER => q(ADD tls_handshake 'on'), 'DROP tls_handshake', 'HV00D' ],
	[ SERVER => q(ADD inbox_prefix '>'), 'DROP inbox_prefix', 'HV024' ],
	[ 'USER MAPPING FOR CURRENT_USER SERVER' => 'DROP password', q(ADD password 'p'), 'HV024' ],
	[ 'USER MAPPING FOR CURRENT_USER SERVER' => q(ADD tokn 'x'), 'DROP tokn', 'HV00D' ])
{
	my ($object, $break, $mend, $sqlstate) = @$_;
	my $session = PsqlSession->new($node, settings => { 'nats_publish.server' => 'main' });
	is(outcome($session, $PUBLISH), 'T', 'a foreign server');
	$in->value("ALTER $object main OPTIONS ($break)");
	is(outcome($session, $PUBLISH), $sqlstate, "with a bad option: $break");
	is($session->error('SELECT count(*) FROM nats_check()'), '', 'of which the doctor tells in a row');
	is(outcome(PsqlSession->new($node, settings => { 'nats_publish.server' => 'main' }), $PUBLISH), $sqlstate, 'in a new session, too');
	$in->value("ALTER $object main OPTIONS ($mend)");
}
$in->value('ALTER FOREIGN DATA WRAPPER nats VALIDATOR nats_fdw_validator; DROP SERVER main CASCADE');
is($elsewhere->next_event(0.2), undef, 'nobody has connected elsewhere');

# ---- Headers of the server's -------------------------------------------------------------------------------------------

$in->value(q(SELECT nats_relay_pause()));
$in->value(qq(CREATE SERVER main FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $nats->url}'); GRANT USAGE ON FOREIGN SERVER main TO everybody;
	CREATE ROLE bounded LOGIN IN ROLE everybody; ALTER ROLE bounded SET nats_publish.allowed_subjects = 't.>, orders.a';
	GRANT INSERT (subject, payload, headers, msg_id, next_attempt_at) ON nats_outbox TO everybody;
	GRANT UPDATE (headers), SELECT ON nats_outbox TO everybody; GRANT CREATE ON SCHEMA public TO everybody));
my $bounded = PsqlSession->new($node, user => 'bounded');

# The SQLSTATEs that a message with these headers gets, in each way; the message of the first one is kept.
my $first_error;
my @WAYS = (
	q(SELECT nats_publish(%s, 'x'::text, headers => %s)),
	q(SELECT nats_publish_async(%s, 'x'::text, headers => %s)),
	q(SELECT nats_publish_async(%s, 'x'::text, headers => %s, critical => false)),
	q(SELECT nats_publish_on_commit(%s, 'x'::text, headers => %s)),
	q(SELECT nats_publish_outbox(%s, 'x'::text, headers => %s)),
	q(INSERT INTO nats_outbox (subject, headers) VALUES (%s, %s)),
	q(INSERT INTO nats_outbox (subject, headers, next_attempt_at) VALUES (%s, %s, '-infinity')),
	q(SET LOCAL nats_publish.server = main; SELECT nats_publish_on_commit(%s, 'x'::text, headers => %s)),
	q(SET LOCAL nats_publish.server = main; SELECT nats_publish(%s, 'x'::text, headers => %s)));
sub ways
{
	my ($session, $subject, $headers) = @_;
	my %seen;
	undef $first_error;
	foreach my $way (@WAYS)
	{
		my $result = $session->run('BEGIN; ' . sprintf($way, literal($subject), literal($headers)) . ';');
		$session->run('ROLLBACK');
		$seen{ $result->{sqlstate} || 'none' }++;
		$first_error //= $result->{error};
	}
	return join ' ', sort keys %seen;
}

$client->purge('T');
foreach my $name ('Nats-Trace-Dest', 'nats-trace-dest', 'NATS-TRACE-ONLY', 'Nats-Trace-Hop', 'Nats-Trace-Origin-Account', 'Nats-Anything', 'nats-', 'Nats-Rollup-',
	'Nats-Batch-Id', 'nats-batch-commit', 'Nats-Stream-Source', 'Nats-Expected-Last-Msg-Id', 'Nats-Expected-Anything', 'Nats-Marker-Reason', 'Nats-Counter-Sources',
	'Nats-Request-Info', 'Nats-Required-Api-Level', 'Nats-Msg-Size', 'Nats-Stream', 'Nats-Sequence', 'Nats-Subject', 'Nats-Last-Consumer', 'Nats-Schedule-Anything')
{
	foreach my $session ($in, $bounded)
	{
		# what claims to have been tried is left to the relay, in a session without bounds
		my $expected = $session == $in ? '22023 none' : '22023';
		is(ways($session, 't.a', qq({"$name": "t.b"})), $expected, "refused: $name");
		like($first_error, qr/header "\Q$name\E" is reserved/, 'as reserved');
	}
}
foreach my $name ('Nats-Rollup', 'nats-schedule-target', 'Nats-Msg-Id', 'Nats-Trace-Dest', 'NATS-ANYTHING')
{
	is($bounded->sqlstate(qq(CREATE TEMP TABLE h (i int PRIMARY KEY); SELECT nats_publish_table('h', 't.h', headers => '{"$name": "x"}'))), '22023',
		"not in the headers of a published table: $name");
	is($bounded->sqlstate(qq(CREATE TRIGGER h AFTER INSERT ON h FOR EACH ROW EXECUTE FUNCTION nats_publish_change('subject=t.h', 'headers={"$name": "x"}');
		INSERT INTO h VALUES (1))), '22023', 'nor of a trigger');
	$bounded->run('ROLLBACK; DROP TABLE IF EXISTS h');
}

# What they name must be allowed, too.
foreach my $name ('Nats-Schedule-Target', 'NATS-schedule-TARGET', 'Nats-Schedule-Source', 'Nats-Scheduler', 'Nats-Expected-Last-Subject-Sequence-Subject')
{
	is(ways($bounded, 't.a', qq({"$name": "$_"})), '42501', "$name: $_") foreach 'secret.x', 'orders.b', 'T.x', 't';
	like($first_error, qr/permission denied for the subject of header "\Q$name\E"/i, 'is denied');
}
is(ways($bounded, 't.a', qq({"Nats-Schedule-Source": "$_"})), '42501', "Nats-Schedule-Source: $_, which is no subject") foreach 't.>', 't.*', '>', '*.x', 't..x', 't. x';
# That can be a pattern, all of which must be allowed.
my $pattern = sub { return qq({"Nats-Expected-Last-Subject-Sequence": 0, "Nats-Expected-Last-Subject-Sequence-Subject": "$_[0]"}) };
is(ways($bounded, 't.a', $pattern->($_)), '42501', "the last sequence of $_") foreach '>', '*.x', '*.>', 'orders.*', 'orders.>', 'orders.b';
is(ways($bounded, 't.a', $pattern->($_)), '22023', "the last sequence of $_") foreach 't..x', 't. x', 't.>.x', '';
foreach my $name ('Nats-Schedule-Target', 'Nats-Scheduler')
{
	like(ways($bounded, 't.a', qq({"$name": "$_"})), qr/^22023$/, "$name: $_, which cannot be published to")
		foreach '', ' t.x', 't.x ', 't.>', 't.*', 't..x', 't. x', '$JS.API.STREAM.PURGE.T', '$SYS.x', '_INBOX.x';
	is(ways($in, 't.a', qq({"$name": "$_"})), '22023 none', "$name: $_, by whoever may") foreach '$JS.API.STREAM.PURGE.T', '_INBOX.x', 't.*';
}
is(ways($bounded, 't.a', $_), '22023', "twice: $_")
	foreach '{"Nats-Schedule-Target": ["t.x", "secret.x"]}', '{"Nats-Schedule-Target": "t.x", "nats-schedule-target": "secret.x"}', '{"nats-rollup": "sub", "Nats-Rollup": "all"}',
	'{"Nats-Rollup": ["sub", "all"]}';
is(ways($bounded, 't.a', qq({"Nats-Rollup": "$_"})), '42501', "Nats-Rollup: $_") foreach 'all', 'ALL', 'All';
is(ways($bounded, 't.a', qq({"Nats-Rollup": "$_"})), '22023', "Nats-Rollup: $_") foreach 'x', 'subject', 'sub,all';
is(ways($bounded, 't.a', q({"Nats-Schedule-Rollup": "all"})), '42501', 'Nats-Schedule-Rollup: all');
is(ways($bounded, 'secret.x', q({"A": "x"})), '42501', 'a subject, with headers');
is($bounded->value(q(SELECT value FROM nats_explain('t.a', 'x', headers => '{"Nats-Rollup": "all"}') WHERE item = 'allowed')),
	'no: permission denied for header "Nats-Rollup"', 'nats_explain() knows of it');
is(stored(), '', 'nothing of all this was stored');

# What was tried before can't be given other headers.
{
	my $id = $bounded->value(q(SELECT nats_publish_outbox('t.waits', 'x'::text)));
	is($bounded->sqlstate(qq(UPDATE nats_outbox SET headers = '{"Nats-Rollup": "all"}' WHERE id = $id)), '42501', 'UPDATE of the outbox');
	$in->value('TRUNCATE nats_outbox');
}

# Within the bounds they work, as does all of it without bounds.
$in->value(q(SELECT nats_publish(subject, '1') FROM unnest('{t.a,t.a,t.b,secret.a}'::text[]) AS subject \g /dev/null
	));
is($bounded->sqlstate(q(SELECT nats_publish('t.a', '2'::text, headers => '{"nats-rollup": "SUB"}'))), '', 'a rollup of a subject');
is(stored(), 't.b secret.a t.a', 'removes what the subject had');
is($in->sqlstate(q(SELECT nats_publish('t.a', '3', headers => '{"Nats-Rollup": "all"}'))), '', 'one of the stream, in a session without bounds');
is(stored(), 't.a', 'removes all');
is($in->sqlstate(q(SELECT nats_publish('t.a', 'x', headers => '{"Natsy": "1", "X-Nats-Rollup": "all", "KV-Operation": "PUT"}'))), '', 'other names are nobody\'s');

SKIP:
{
	skip 'NATS_SERVER_NEW does not name a newer nats-server', 7 unless $ENV{NATS_SERVER_NEW};
	my $new = NatsServer->new(name => 'new', jetstream => 1, binary => $ENV{NATS_SERVER_NEW})->start;
	my $new_client = NatsClient->new(url => $new->url);
	$new_client->create_stream('T', [ 't.>', 'secret.>' ], allow_msg_schedules => \1, allow_rollup_hdrs => \1, allow_msg_ttl => \1);
	$new_client->create_stream('C', ['orders.>'], allow_msg_counter => \1);
	my $has = sub { my ($subject) = @_; return grep { $_->{subject} eq $subject } $new_client->stream_messages('T'); };
	$in->value("ALTER SERVER main OPTIONS (SET url '${\ $new->url}')");
	$_->value('SET nats_publish.server = main') foreach $in, $bounded;
	my $schedule = sub { my ($target) = @_; return qq(SELECT (nats_publish('t.plan', 'x'::text,
		headers => '{"Nats-Schedule": "\@at 2000-01-01T00:00:00Z", "nats-schedule-target": "$target"}')).stream); };
	is(outcome($bounded, $schedule->('secret.x')), '42501', 'a schedule whose target is not allowed');
	is(outcome($bounded, $schedule->('t.x')), 'T', 'one whose target is');
	ok(wait_for('the scheduled message', sub { $has->('t.x') }), 'is published to it');
	$in->value(q(SELECT nats_publish('secret.plan', 'x', headers => '{"Nats-Schedule": "@at 2100-01-01T00:00:00Z", "Nats-Schedule-Target": "secret.x"}')));
	is(outcome($bounded, q(SELECT nats_publish('t.a', 'x'::text, headers => '{"Nats-Schedule-Next": "purge", "Nats-Scheduler": "secret.plan"}'))), '42501',
		'the schedule of a subject that is not allowed');
	is(scalar $has->('secret.plan'), 1, 'is not removed');
	is(scalar $has->('secret.x'), 0, 'and nothing has come there');
	is(outcome($bounded, q(SELECT (nats_publish('orders.a', ''::text, headers => '{"Nats-Incr": 1}')).stream)), 'C', 'a counter');
	$_->value('RESET nats_publish.server') foreach $in, $bounded;
}
$in->value('DROP SERVER main CASCADE; SELECT nats_relay_resume()');

# ---- What runs in somebody else's session, unasked ----------------------------------------------------------------------

$client->purge('T');
my %calls = (
	sync => q(PERFORM nats_publish('secret.x', 'x'::text)),
	async => q(PERFORM nats_publish_async('secret.x', 'x'::text)),
	uncritical => q(PERFORM nats_publish_async('secret.x', 'x'::text, critical => false)),
	on_commit => q(PERFORM nats_publish_on_commit('secret.x', 'x'::text)),
	outbox => q(PERFORM nats_publish_outbox('secret.x', 'x'::text)),
	insert => q(INSERT INTO nats_outbox (subject) VALUES ('secret.x')),
	tried => q(INSERT INTO nats_outbox (subject, next_attempt_at) VALUES ('secret.x', '-infinity')),
	request => q(PERFORM nats_jetstream('STREAM.PURGE.T')),
	create => q(PERFORM nats_create_stream('FORGED', '{forged.>}')),
	probe => q(PERFORM nats_check('secret.x', probe => true)),
	explain => q(PERFORM nats_explain('secret.x', 'x')),
	info => q(PERFORM nats_server_info()),
	pause => q(PERFORM nats_relay_pause()),
	sync_row => q(INSERT INTO rows_sync VALUES (1)),
	async_row => q(INSERT INTO rows_async VALUES (1)),
	on_commit_row => q(INSERT INTO rows_on_commit VALUES (1)),
	outbox_row => q(INSERT INTO rows_outbox VALUES (1)));
my $owner = PsqlSession->new($node, user => 'bounded');
$owner->value("CREATE TABLE rows_$_ (i int PRIMARY KEY); SELECT nats_publish_table('rows_$_', 'secret.x', delivery => '$_')") foreach qw(sync async on_commit outbox);
$owner->value(q(CREATE TABLE trap (i int); INSERT INTO trap SELECT generate_series(1, 100);
	CREATE FUNCTION act() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
	CREATE FUNCTION call(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM public.act(); RETURN i; END';
	CREATE INDEX trap_call ON trap (call(i)); CREATE MATERIALIZED VIEW trapped AS SELECT call(i) AS i FROM trap));
sub act { return "CREATE OR REPLACE FUNCTION act() RETURNS void LANGUAGE plpgsql SET search_path = public AS \$\$BEGIN $_[0]; END\$\$"; }
my $DENIED = qr/42501: cannot use NATS within security-restricted operation/;
my $superuser = PsqlSession->new($node);
foreach my $call (sort keys %calls)
{
	$owner->value(act($calls{$call}));
	like($superuser->error($_), $DENIED, "$call: $_")
		foreach 'ANALYZE trap', 'REINDEX INDEX trap_call', 'REFRESH MATERIALIZED VIEW trapped', 'CREATE INDEX ON trap (call(i))', 'CLUSTER trap USING trap_call';
	like($owner->error('CREATE INDEX ON trap (call(i))'), $DENIED, 'for its owner, too');
}
$owner->value(act("$calls{sync}; EXCEPTION WHEN OTHERS THEN NULL"));
is($superuser->sqlstate('ANALYZE trap; REINDEX INDEX trap_call; REFRESH MATERIALIZED VIEW trapped'), '', 'an error that is caught');
is(stored() . $superuser->value('SELECT count(*) FROM nats_outbox'), '0', 'has published nothing');
$owner->value(act('NULL'));
$owner->value('INSERT INTO trap SELECT 1 FROM generate_series(1, 1000)');
$owner->value(act($calls{sync}));
$superuser->value('ALTER TABLE trap SET (autovacuum_analyze_threshold = 1, autovacuum_analyze_scale_factor = 0)');
$log = log_length($node);
reconfigure($node, autovacuum => 'on', autovacuum_naptime => '1s');
ok(wait_for('autovacuum', sub { log_lines($node, $log, qr/ERROR:.*cannot use NATS within security-restricted operation/) > 0 }), 'autovacuum meets it');
reconfigure($node, autovacuum => 'off', autovacuum_naptime => undef);
is(stored() . $superuser->value('SELECT count(*) FROM nats_outbox'), '0', 'and publishes nothing');
$superuser->value('DROP TABLE trap CASCADE');

# Outside of such, code is bounded by the session that runs it, whoever has written it and whoever it is run as.
$superuser->value(q(CREATE FUNCTION as_superuser() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$SELECT (nats_publish('secret.x', 'x'::text)).stream$$));
is($owner->sqlstate('SELECT as_superuser()'), '42501', 'a SECURITY DEFINER function of a superuser is bounded in a bounded session');
$owner->value(q(CREATE FUNCTION as_bounded() RETURNS text SECURITY DEFINER LANGUAGE sql AS $$SELECT (nats_publish('secret.x', 'x'::text)).stream$$));
is($superuser->value('SELECT as_bounded()'), 'T', 'one of a bounded role is not, in a session without bounds');

# ---- Only foreign servers -----------------------------------------------------------------------------------------------

my $users = NatsServer->new(name => 'users', jetstream => 1,
	config => "accounts {\n" . join('', map { "\t\U$_\E { jetstream: enabled, users: [ { user: $_, password: $_ } ] }\n" } qw(app boss)) . '}')->start;
my %by_user = map { $_ => NatsClient->new(url => $users->url, user => $_, pass => $_) } qw(app boss);
$by_user{$_}->create_stream(uc, ['t.>']) foreach keys %by_user;
my $url = 'nats://boss:boss@127.0.0.1:' . $users->port;
reconfigure($node, 'nats_publish.url' => $url);
$superuser->value(qq(CREATE SERVER main FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $users->url}'); GRANT USAGE ON FOREIGN SERVER main TO everybody;
	CREATE ROLE app LOGIN IN ROLE everybody; CREATE USER MAPPING FOR app SERVER main OPTIONS (user 'app', password 'app');
	ALTER ROLE app SET nats_publish.server = 'main'; ALTER ROLE app SET nats_publish.server_required = on;
	CREATE FUNCTION with_settings() RETURNS text SECURITY DEFINER LANGUAGE sql SET nats_publish.server = '' AS
		\$\$SELECT (nats_publish('t.a', 'x'::text)).stream\$\$));
ok(wait_for('the other url', sub { outcome($superuser, $PUBLISH) eq 'BOSS' }), 'a superuser is the NATS user of the settings');
my $app = PsqlSession->new($node, user => 'app');
is(outcome($app, $PUBLISH), 'APP', 'a role publishes as the user of its mapping');
$app->value(q(SET nats_publish.server = ''));
foreach my $sql ($PUBLISH, $HELD, q(SELECT nats_publish_async('t.a', 'x'::text)), q(SELECT nats_publish_async('t.a', 'x'::text, critical => false)),
	'SELECT nats_server_info()', q(SELECT nats_jetstream('INFO')), q(SELECT nats_stream_info('BOSS')), q(SELECT nats_create_stream('X', '{x}')))
{
	like($app->error($sql), qr/42501: permission denied for the server of the settings\nHINT:  nats_publish\.server_required is on/,
		"and with nats_publish.server = '' as none: $sql");
}
is($app->value(q(SELECT status, detail FROM nats_check() WHERE check_name = 'connection')), 'failed|Permission denied for the server of the settings. nats_publish.server_required is on: nats_publish.server must name a foreign server.', 'the doctor says it');
like($app->value(q(SELECT value FROM nats_explain('t.a', 'x') WHERE item = 'server')), qr/^unknown: permission denied for the server of the settings/, 'and nats_explain()');
is(outcome($app, 'SELECT with_settings()'), '42501', 'nor in a SECURITY DEFINER function of a superuser');
is($app->sqlstate("SET nats_publish.server = ''; $_"), '42501', $_)
	foreach 'SET nats_publish.server_required = off', q(SELECT set_config('nats_publish.server_required', 'off', true)), 'ALTER ROLE app SET nats_publish.server_required = off';
$app->run('RESET ALL; RESET nats_publish.server_required; SET ROLE everybody');
$app->run(q(SET nats_publish.server = ''));
is(outcome($app, $PUBLISH), '42501', 'nor after RESET and SET ROLE');
$app->value('RESET ROLE');
is($app->sqlstate('ALTER ROLE app RESET nats_publish.server_required'), '42501', 'nor can it be reset for the next session');
ok(!eval { PsqlSession->new($node, user => 'app', settings => { 'nats_publish.server_required' => 'off' }) }, 'nor by an option of the connection');
like($@, qr/permission denied to set parameter "nats_publish\.server_required"/, 'which is refused');

# The outbox goes out as the relay's NATS user.
$app->value(q(SET nats_publish.server = main; CREATE TABLE outboxed (i int PRIMARY KEY); SELECT nats_publish_table('outboxed', 't.a', delivery => 'outbox')));
foreach my $sql (q(SELECT nats_publish_outbox('t.a', 'x'::text)), q(INSERT INTO nats_outbox (subject) VALUES ('t.a')), 'INSERT INTO outboxed VALUES (1)',
	q(INSERT INTO nats_outbox (subject, next_attempt_at) VALUES ('t.a', '-infinity')))
{
	like($app->error($sql), qr/42501: permission denied for the outbox/, "nor by the outbox: $sql");
}
is(outcome($app, $PUBLISH), 'APP', 'and it still publishes as its own');
is(join(' ', map { $by_user{$_}->stream_info(uc)->{state}{messages} } qw(app boss)), '2 1', 'nothing else has come');

# ---- What nobody is shown -----------------------------------------------------------------------------------------------

# A payload, in what is published, fails, waits and dies, at the level of the log that tells most of ours.
{
	my $from = log_length($node);
	my $loud = PsqlSession->new($node, settings => { 'nats_publish.ack_timeout' => '300ms', log_min_messages => 'debug1', log_min_error_statement => 'panic', log_statement => 'none' });
	my $shown = '';
	$loud->value(q(CREATE TEMP TABLE canary AS SELECT 'CANARY'::text AS payload));
	foreach my $sql ((map { my $subject = $_; map { "SELECT $_('$subject', payload) FROM canary" } qw(nats_publish nats_publish_async nats_publish_on_commit nats_publish_outbox) }
			't.a', 'none.a', 't..a', '$JS.x'), q(SELECT nats_publish_async('none.a', payload, critical => false) FROM canary),
		q(SELECT nats_publish('t.a', repeat(payload, 1000000)) FROM canary), q(SELECT nats_publish_outbox('t.a', repeat(payload, 1000000)) FROM canary),
		q(SELECT nats_publish('t.a', payload, expect_stream => 'NONE') FROM canary))
	{
		my $result = $loud->run("BEGIN; $sql; SELECT * FROM nats_futures(); COMMIT; ROLLBACK");
		$shown .= $result->{output} . $result->{error};
	}
	wait_for('the dead row', sub { $superuser->value('SELECT count(*) FROM nats_outbox_dead') > 0 });
	foreach my $view (qw(nats_outbox_messages nats_relay nats_published_tables nats_publish_stats nats_publish_activity nats_publish_latency nats_session_stats()))
	{
		my $result = $superuser->run("SELECT * FROM $view");
		$shown .= $result->{output} . $result->{error};
	}
	cmp_ok(length $shown, '>', 2000, 'errors and views, after all kinds of messages');
	unlike($shown, qr/CANARY/, 'do not show their payload');
	my $told = substr slurp_file($node->logfile), $from;
	like($told, qr/nats_publish|NATS/, 'the log');
	unlike($told, qr/^(?!.*(?:statement|STATEMENT|CREATE TEMP)).*CANARY/m, 'does not, either');
}

done_testing();
