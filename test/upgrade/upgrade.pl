
# From one major version of PostgreSQL to another: by dump and restore, and by pg_upgrade in two of its modes. What waits in
# the outbox, what is dead and what is published of tables goes along, and is published once, while nats-server runs on.
#
# Run by test/upgrade/run. UPGRADE_FROM and UPGRADE_TO are where two versions of PostgreSQL are installed, each with the extension.

use strict;
use warnings FATAL => 'all';

use Cwd;
use Digest::MD5 qw(md5_hex);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use ExtensionCatalog;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($FROM, $TO) = @ENV{qw(UPGRADE_FROM UPGRADE_TO)};

# postgres is a database that pg_upgrade drops and makes anew.
my @DATABASES = qw(app billing postgres);
my %SCHEMA = (app => 'public', billing => '"Nats Ext"', postgres => 'public');
my ($FROM_MAJOR) = `$FROM/bin/pg_config --version` =~ /(\d+)/;
my $RELAYS = "'" . join(', ', @DATABASES) . "'";

my $EXTENSION = <<'END';
CREATE SCHEMA IF NOT EXISTS @schema@;
CREATE EXTENSION nats_publish SCHEMA @schema@;
GRANT USAGE ON SCHEMA @schema@ TO app;
GRANT EXECUTE ON FUNCTION @schema@.nats_publish_outbox(text, text, jsonb, text, timestamptz), @schema@.nats_server_info() TO app;
GRANT INSERT (subject, payload), SELECT (id) ON @schema@.nats_outbox TO app WITH GRANT OPTION;
GRANT USAGE ON FOREIGN DATA WRAPPER nats TO app;
REVOKE SELECT ON @schema@.nats_relay FROM pg_monitor;
END

my $SETTINGS = <<'END';
ALTER ROLE app SET nats_publish.allowed_subjects = 'u.>';
ALTER DATABASE app SET nats_publish.ack_timeout = '7s';
ALTER DATABASE billing SET nats_publish.server = 'main';
ALTER ROLE app IN DATABASE billing SET nats_publish.connect_timeout = '9s';
END

# Of the WAL of database billing; to be made once that is published.
my $LOGGED = <<'END';
CREATE TABLE logged (id int PRIMARY KEY);
SELECT nats_publish_table('logged', 'u.logged.{id}', delivery => 'wal');
INSERT INTO logged VALUES (1);
END

my $SERVER = <<'END';
CREATE SERVER main FOREIGN DATA WRAPPER nats OPTIONS (inbox_prefix '_PG', url '@url@');
CREATE USER MAPPING FOR app SERVER main OPTIONS (password 'it''s secret', "user" 'app');
GRANT USAGE ON FOREIGN SERVER main TO app;
END

my $TABLES = <<'END';
CREATE TABLE orders (id int PRIMARY KEY, v text, "The Rest" text);
SELECT nats_publish_table('orders', 'u.orders.{id}');
CREATE TABLE lines (id int PRIMARY KEY, v text, seen_at text);
SELECT nats_publish_table('lines', 'u.lines.{op}.{id}', level => 'statement', delivery => 'async', format => 'debezium', old => true,
    columns => '{id,v}', ignore => '{v}', headers => '{"X-Line": "{id}"}', msg_id => '{xid}-{op}-{id}');
ALTER TABLE lines DISABLE TRIGGER nats_publish_truncate;
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (10);
CREATE TABLE parted_2 PARTITION OF parted DEFAULT;
SELECT nats_publish_table('parted', 'u.parted.{id}');
CREATE TABLE boxed (id int PRIMARY KEY, v text);
SELECT nats_publish_table('boxed', 'u.boxed.{id}', delivery => 'outbox', payload => 'v', headers => '{"One": "{id}"}');
CREATE TRIGGER own AFTER INSERT ON boxed FOR EACH ROW WHEN (NEW.id > 1) EXECUTE FUNCTION nats_publish_change('subject=u.own.{id}');
SET session_replication_role = replica;
INSERT INTO orders VALUES (1, 'a', 'ü'); INSERT INTO lines VALUES (1, 'a', 'b'); INSERT INTO parted VALUES (1, 'a'), (20, 'b');
RESET session_replication_role;
END

# Changes of each table, and the subjects of what is published of them.
my $CHANGES = <<'END';
INSERT INTO orders VALUES (2, 'b', ''); UPDATE orders SET v = 'c' WHERE id = 1; DELETE FROM orders WHERE id = 2;
UPDATE lines SET v = 'ignored'; UPDATE lines SET id = 3; TRUNCATE lines;
UPDATE parted SET id = 30 WHERE id = 1; INSERT INTO boxed VALUES (2, 'boxed');
END
my $CHANGED = 'u.boxed.2 u.lines.delete.1 u.lines.insert.3 u.orders.1 u.orders.2 u.orders.2 u.own.2 u.parted.1 u.parted.30';

# Messages of every kind; the large one is stored apart from its row.
my $WAITING = <<'END';
INSERT INTO nats_outbox (subject, payload, msg_id)
    SELECT 'u.many.' || i % 3, convert_to('message ' || i, 'UTF8'), current_database() || '-' || i FROM generate_series(1, 100) AS i;
SELECT nats_publish_outbox('u.text', 'grün', headers => '{"One": "1", "Many": ["a", "ü"]}', msg_id => current_database() || ' mine');
SELECT nats_publish_outbox('u.bytes', '\x00ff0a'::bytea);
SELECT nats_publish_outbox('u.json', '{"a":  1}'::json);
SELECT nats_publish_outbox('u.null', NULL::text);
SELECT nats_publish_outbox('u.large', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 5000) AS i));
INSERT INTO boxed VALUES (1, 'it''s boxed');
END

# In the form of stored_messages().
my $MESSAGES = <<'END';
SELECT concat_ws('|', subject, md5(coalesce(payload, '')), msg_id, headers ->> 'One', translate(headers ->> 'Many', '[" ]', ''))
FROM nats_outbox WHERE subject LIKE 'u.%'
END

my %STATE = (
	'the outbox' => 'TABLE nats_outbox ORDER BY id; TABLE nats_outbox_dead ORDER BY id; TABLE nats_control; TABLE nats_outbox_messages ORDER BY id',
	'its sequence' => 'SELECT last_value, is_called FROM nats_outbox_id_seq',
	'what is published of tables' => 'TABLE nats_published_tables ORDER BY relation::text, trigger_name',
	'the rows of tables' => 'TABLE orders; TABLE lines; TABLE parted ORDER BY id; TABLE boxed',
	'servers and users' => 'SELECT srvname, srvoptions, srvacl FROM pg_foreign_server; SELECT srvname, usename, umoptions FROM pg_user_mappings',
	'settings' => 'SELECT datname, rolname, setconfig FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase
		LEFT JOIN pg_roles r ON r.oid = setrole ORDER BY 1, 2');

sub in_database
{
	my ($database, $sql) = @_;
	return "SET search_path = public, $SCHEMA{$database};\n" . $sql =~ s/\@schema\@/$SCHEMA{$database}/gr;
}

sub run_in
{
	my ($node, $database, $sql) = @_;
	return $node->safe_psql($database, in_database($database, $sql));
}

sub session_in
{
	my ($node, $database, %args) = @_;
	my $session = PsqlSession->new($node, dbname => $database, %args);
	$session->value(in_database($database, ''));
	return $session;
}

# With the same options for both, as pg_upgrade wants it; not started.
sub cluster
{
	my ($name, $installation, $nats) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, install_path => $installation);
	$node->init(extra => [ '--data-checksums', '--encoding=UTF8', '--locale=C' ]);
	$node->append_conf('postgresql.conf', join '', map { "$_\n" } 'log_statement = none', "shared_preload_libraries = 'nats_publish'",
		"nats_publish.url = '" . $nats->url . "'", 'wal_level = logical', 'nats_publish.relay_max_attempts = 1', "nats_publish.relay_databases = ''");
	return $node;
}

sub let_relays
{
	my ($node, $databases) = @_;
	$node->adjust_conf('postgresql.conf', 'nats_publish.relay_databases', $databases);
	return;
}

# What is to be the same afterwards.
sub state_of
{
	my ($node, $pg_dump) = @_;
	my %state;
	foreach my $database (@DATABASES)
	{
		$state{"$database: $_"} = run_in($node, $database, $STATE{$_}) foreach keys %STATE;
		my ($schema, $errors) = run_command([ $pg_dump, '-s', '-d', $node->connstr($database) ]);
		die $errors if $errors ne '';
		$state{"$database: the schema"} = $schema =~ s/^(-- Dumped|\\restrict|\\unrestrict) .*\n//gmr;
	}
	return \%state;
}

# A stopped cluster with messages that are dead, are tried again, and wait, and one with a slot whose WAL is published; and its
# state.
sub old_cluster
{
	my ($name, $nats, $pg_dump, $keeps_slot) = @_;
	my $node = cluster("${name}_old", $FROM, $nats);
	$node->start;
	$node->safe_psql('postgres', "CREATE ROLE app LOGIN;\nCREATE DATABASE app;\nCREATE DATABASE billing;\n$SETTINGS");
	run_in($node, $_, $EXTENSION . $SERVER =~ s/\@url\@/$nats->url/er . $TABLES) foreach @DATABASES;
	let_relays($node, $RELAYS);
	$node->restart;
	use_relay($node, $_) foreach @DATABASES;
	use_wal($node, $keeps_slot);
	run_in($node, 'billing', 'SELECT nats_relay_pause()');
	let_relays($node, "'billing'");
	$node->restart;
	run_in($node, $_, $WAITING) foreach @DATABASES;
	my $state = state_of($node, $pg_dump);
	my @messages = map { split /\n/, run_in($node, $_, $MESSAGES) } @DATABASES;
	$node->stop;
	return ($node, $state, [ sort @messages ]);
}

# One message is published, the next one dies, and one is tried again and again.
sub use_relay
{
	my ($node, $database) = @_;
	my $session = session_in($node, $database);
	wake_relay($session);
	$session->value("SELECT nats_publish_outbox('u.before', '$database')");
	wait_until_drained($session);
	foreach my $what ('dead', 'again')
	{
		reconfigure($node, 'nats_publish.relay_max_attempts' => $what eq 'dead' ? undef : 1000);
		$session->value(qq(SELECT nats_publish_outbox('w.$what', '$database', headers => '{"Nats-Expected-Stream": "LATER"}')));
		wait_for("a message that is $what", sub { $session->value("SELECT count(*) FROM nats_outbox_messages WHERE subject = 'w.$what' AND attempts > 0") eq '1' });
	}
	$session->close;
	return;
}

# It is switched off before what does not keep its slot.
sub use_wal
{
	my ($node, $keeps_slot) = @_;
	my $session = session_in($node, 'billing');
	$session->value('SELECT nats_wal_enable()');
	$session->value($LOGGED);
	wait_for('the WAL', sub { $session->value('SELECT published FROM nats_wal_relay') eq '1' });
	$session->value('SELECT nats_wal_disable()') unless $keeps_slot;
	$session->close;
	return;
}

my %UPGRADES = (
	dump => \&dump_and_restore,
	copy => sub { pg_upgrade('--copy', @_) },
	link => sub { pg_upgrade('--link', @_) });

sub dump_and_restore
{
	my ($old, $new) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir('dump') . '/all.sql';
	$_->start foreach $old, $new;
	command_ok([ $new->installed_command('pg_dumpall'), '--no-sync', '-d', $old->connstr('postgres'), '-f', $file ], 'pg_dumpall');
	my (undef, $errors) = run_command([ $new->installed_command('psql'), '-Xq', '-d', $new->connstr('postgres'), '-f', $file ]);
	is($errors =~ s/^.*ERROR:  role "\w+" already exists$//mr, '', 'psql restores it, but for the superuser that is there');
	$_->stop foreach $old, $new;
	return;
}

# The relays are configured, as in a cluster that has got the old one's configuration.
sub pg_upgrade
{
	my ($mode, $old, $new) = @_;
	let_relays($_, $RELAYS) foreach $old, $new;
	my $back = getcwd;
	chdir PostgreSQL::Test::Utils::tempdir('pg_upgrade') or die "$!";    # its logs are left there
	command_ok([ $new->installed_command('pg_upgrade'), $mode, '-d', $old->data_dir, '-D', $new->data_dir, '-b', "$FROM/bin", '-B', "$TO/bin",
			'-s', $new->host, '-p', $old->port, '-P', $new->port ], "pg_upgrade $mode");
	chdir $back or die "$back: $!";
	return;
}

sub stored_messages
{
	my ($client, $like) = @_;
	return map { join '|', $_->{subject}, md5_hex($_->{payload}), map { $_ ? join ',', @$_ : () } @{ $_->{headers} }{qw(Nats-Msg-Id One Many)} }
		grep { $_->{subject} =~ $like } $client->consume('U');
}

# ---- What is the same

sub check_state
{
	my ($new, $state) = @_;
	my $now = state_of($new, $new->installed_command('pg_dump'));
	is($now->{$_}, $state->{$_}, $_) foreach sort keys %$state;
	foreach my $database (@DATABASES)
	{
		my @fresh = extension_catalog($new, 'template1', in_database($database, $EXTENSION));
		# a pause is marked in the comment
		my @upgraded = map { s/ \(its relay is paused\)//r } extension_catalog($new, $database);
		is(catalog_difference(\@fresh, \@upgraded), '', "$database: the extension is the same as a new one with the same grants");
	}
	return;
}

# ---- What goes on

sub check_relays
{
	my ($new, $client, $state, $messages) = @_;
	let_relays($new, $RELAYS);
	$new->restart;
	my %session = map { ($_ => session_in($new, $_)) } @DATABASES;
	wait_for("$_ to be published", sub { $session{$_}->value(q(SELECT count(*) FROM nats_outbox WHERE subject LIKE 'u.%')) eq '0' }) foreach qw(app postgres);
	is(run_in($new, 'billing', $STATE{'the outbox'}), $state->{'billing: the outbox'}, 'a relay that is paused stays so');
	wake_relay($session{billing});
	wait_for('the rest to be published', sub { $session{billing}->value(q(SELECT count(*) FROM nats_outbox WHERE subject LIKE 'u.%')) eq '0' });
	my @stored = stored_messages($client, qr/^u\.(?!before|logged)/);
	is_deeply([ sort @stored ], $messages, 'what has waited is in the stream, once');
	is(scalar(stored_messages($client, qr/^u\.before/)), scalar @DATABASES, 'what had been published is not again');
	my @numbers = map { /^u\.many\.0\|\w+\|app-(\d+)/ ? $1 : () } @stored;
	is("@numbers", join(' ', sort { $a <=> $b } @numbers), 'in its order');

	# nothing is refused any more when it is let
	wait_until_drained($_) foreach values %session;
	$client->js('STREAM.UPDATE.W', { name => 'W', subjects => ['x.>'], storage => 'memory' });
	$client->create_stream('LATER', ['w.>']);
	$_->value('SELECT nats_outbox_retry_all()') foreach values %session;
	wait_until_drained($_) foreach values %session;
	is_deeply([ sort map { "$_->{subject} $_->{payload}" } $client->consume('LATER') ],
		[ sort map { ("w.again $_", "w.dead $_") } @DATABASES ], 'so is what was refused and what was dead, when it is let');
	$_->close foreach values %session;
	return;
}

sub check_triggers
{
	my ($new, $client, $database) = @_;
	my $session = session_in($new, $database);
	my $last = $session->value('SELECT last_value FROM nats_outbox_id_seq');
	my $before = $client->stream_info('U')->{state}{last_seq};
	is($session->value("BEGIN; SELECT nats_publish_outbox('u.x', 'x'); ROLLBACK"), $last + 1, "$database: the next id is a new one");
	$session->value($CHANGES);
	wait_until_drained($session);
	my @subjects = map { $_->{subject} } grep { $_->{seq} > $before } $client->consume('U');
	is(join(' ', sort @subjects), $CHANGED, 'changes are published');
	$session->close;
	return;
}

# What is written before it is switched on, too, if the slot was kept.
sub check_wal
{
	my ($new, $client, $keeps_slot) = @_;
	my $session = session_in($new, 'billing');
	my $slots = q(SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'nats_publish%');
	is($session->value($slots), $keeps_slot ? '1' : '0', 'the slot is ' . ($keeps_slot ? 'kept' : 'not there'));
	like($session->value(q(SELECT status || ' ' || detail FROM nats_check() WHERE check_name = 'wal')),
		$keeps_slot ? qr/^failed .*Call nats_wal_enable\(\), which goes on with that of a server that was upgraded/ :
			qr/^failed 1 table of delivery wal is not published\. Call nats_wal_enable\(\)\./, 'the doctor tells what is to be done');
	$session->value('INSERT INTO logged VALUES (2)');
	unlike($session->run('SELECT nats_wal_enable()')->{error}, qr/WARNING: .*lost/, 'it is switched on without a loss');
	$session->value('INSERT INTO logged VALUES (3)');
	wait_for('a message', sub { grep { $_->{subject} eq 'u.logged.3' } $client->consume('U') });
	is(join(' ', map { $_->{subject} } grep { $_->{subject} =~ /logged/ } $client->consume('U')), $keeps_slot ? 'u.logged.1 u.logged.2 u.logged.3' : 'u.logged.1 u.logged.3',
		'and goes on, with what is written from ' . ($keeps_slot ? 'the old server\'s end' : 'there') . ' on');
	is($session->value("$slots AND failover"), '1', 'with a slot for failover') if $keeps_slot;
	$session->close;
	return;
}

sub check_rights
{
	my ($new, $nats, $database) = @_;
	my $session = session_in($new, $database, user => 'app');
	like($session->value("BEGIN; SELECT nats_publish_outbox('u.by.app', 'x'); ROLLBACK"), qr/^\d+$/, "$database: a role may what it might");
	is($session->sqlstate("SELECT nats_publish('u.by.app', 'x')"), '42501', 'and no more');
	is($session->sqlstate("SELECT nats_publish_outbox('w.by.app', 'x')"), '42501', 'to no other subject');
	is($session->value('SELECT url FROM nats_server_info()'), $nats->url, 'with its server');
	is($session->value('SHOW nats_publish.server'), $database eq 'billing' ? 'main' : '', 'which is that of the settings');
	$session->close;
	return;
}

foreach my $how (qw(dump copy link))
{
	note("---- $how");
	my $nats = NatsServer->new(name => $how, jetstream => 1)->start;
	my $client = NatsClient->new(url => $nats->url);
	$client->create_stream('U', ['u.>']);
	$client->create_stream('W', ['w.>'], storage => 'memory');
	my $new = cluster("${how}_new", $TO, $nats);
	my $keeps_slot = $how ne 'dump' && $FROM_MAJOR >= 17;
	my ($old, $state, $messages) = old_cluster($how, $nats, $new->installed_command('pg_dump'), $keeps_slot);
	$UPGRADES{$how}->($old, $new);
	let_relays($new, "''");
	$new->start;
	check_state($new, $state);
	check_relays($new, $client, $state, $messages);
	foreach my $database (@DATABASES)
	{
		check_triggers($new, $client, $database);
		check_rights($new, $nats, $database);
	}
	check_wal($new, $client, $keeps_slot);
	$new->stop;
	$nats->stop;
}

done_testing();
