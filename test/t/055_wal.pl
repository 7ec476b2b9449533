
# The outbox in the WAL: on and off, what is published from there and what is not, who may do what.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('W', ['w.>'], storage => 'file');
my $node = relay_node('main', 'nats_publish.url' => $nats->url, wal_level => 'logical', max_prepared_transactions => 10);
my ($version) = $node->pg_version =~ /^(\d+)/;
my $session = PsqlSession->new($node);
my $writer = PsqlSession->new($node, settings => { 'nats_publish.outbox_storage' => 'wal' });

sub wal_pid
{
	return $session->value(q(SELECT pid FROM pg_stat_activity WHERE backend_type = 'nats_publish WAL relay' AND datname = current_database()));
}
sub slots { return $session->value(q(SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'nats_publish%')); }
sub messages { return $client->consume('W'); }
sub payloads { return [ map { $_->{payload} } messages() ]; }

sub wait_for_messages
{
	my ($count) = @_;
	wait_for("$count messages", sub { $client->stream_info('W')->{state}{messages} >= $count });
	return;
}

# What comes behind all that was there is stored: so is that, or nothing is to come of it.
my $probes = 0;

sub settle
{
	my $text = 'probe ' . ++$probes;
	$writer->value("SELECT nats_publish_outbox('w.probe', '$text')");
	wait_for($text, sub { grep { $_ eq $text } @{ payloads() } });
	$client->js('STREAM.PURGE.W', { filter => 'w.probe' });
	return;
}

sub purge { $client->purge('W'); return; }

sub error { return $_[0]->error($_[1]); }

# Off, also when switching it on was rolled back

my $never_on = PsqlSession->new($node, settings => { statement_timeout => '10s' });
$never_on->value('BEGIN; SELECT nats_wal_enable(); ROLLBACK');
is(slots(), 1, 'a slot is not undone by a rollback');
is($never_on->value('SELECT nats_wal_disable() IS NULL'), 't', 'nothing waits in one of which the making was rolled back');
is(slots(), 0, 'so it is dropped');
wait_for('no relay of the WAL', sub { wal_pid() eq '' });

# nor is what a transaction writes that is the first to switch it on; and the secret that it had is no other's
$never_on->value(q(SET nats_publish.outbox_storage = 'wal'; BEGIN; SELECT nats_wal_enable(); SELECT nats_publish_outbox('w.never', 'rolled back'); ROLLBACK));
$never_on->value(q(DO $$BEGIN PERFORM nats_wal_enable(); PERFORM nats_publish_outbox('w.never', 'undone'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END$$));
$never_on->value('SELECT nats_wal_enable()');
$never_on->value(q(SELECT nats_publish_outbox('w.never', 'kept')));
wait_for_messages(1);
is_deeply(payloads(), ['kept'], 'switching it on is rolled back twice, and then not: what is written is published');
is($session->value('SELECT sum(forged) FROM nats_wal_relay_status()'), 0, 'and nothing is taken for forged');
$never_on->value('SELECT nats_wal_disable(); RESET nats_publish.outbox_storage');
$session->value('TRUNCATE nats_wal');
purge();
wait_for('no relay of the WAL', sub { wal_pid() eq '' });
$never_on->close;

like(error($writer, q(SELECT nats_publish_outbox('w.a', 'x'))), qr/55000: cannot write to the outbox in the WAL.*There is no replication slot "nats_publish_\d+"/s,
	'without a slot, a message is an error');
$session->value('CREATE ROLE publisher LOGIN; SELECT nats_grant(\'publisher\', \'publish\')');
my $publisher = PsqlSession->new($node, user => 'publisher');
like(error($publisher, 'SELECT nats_wal_enable()'), qr/42501: permission denied for function nats_wal_enable/, 'not everybody may switch it on');
$session->value('GRANT EXECUTE ON FUNCTION nats_wal_enable(), nats_wal_disable(boolean) TO publisher');
like(error($publisher, 'SELECT nats_wal_enable()'), qr/42501: .*replication/, 'who may, must also be able to use slots');
is(slots(), 0, 'and there is none');

# On

my $begin = $session->value('SELECT nats_wal_enable()');
like($begin, qr{^[0-9A-F]+/[0-9A-F]+$}, 'it says where it begins');
is($session->value(q(SELECT plugin || ' ' || slot_type || ' ' || database FROM pg_replication_slots)), 'pgoutput logical postgres', 'there is a slot');
is($session->value(q(SELECT failover FROM pg_replication_slots)), 't', 'which standbys keep, too') if $version >= 17;
like(error($session, 'SELECT nats_wal_enable()'), qr/published already/, 'twice is a notice');
wait_for('a relay of the WAL', sub { wal_pid() ne '' });
is($session->value('SELECT slot FROM nats_wal'), $session->value('SELECT slot_name FROM pg_replication_slots'), 'it is known that there should be one');

# What is published

is($writer->value(q(SELECT nats_publish_outbox('w.a', 'text', '{"X-A": "1"}', 'my id') IS NULL)), 't', 'there is no id of a row');
$writer->value(q(SELECT nats_publish_outbox('w.a', '\x00ff'::bytea)));
$writer->value(q(SELECT nats_publish_outbox('w.a', '{"a": 1}'::jsonb)));
$writer->value(q(SELECT nats_publish_outbox('w.a', NULL::text)));
$writer->value(q(SET nats_publish.auto_msg_id = off; SELECT nats_publish_outbox('w.a', 'no id', '{"X-B": "2", "Nats-Expected-Stream": "W"}'); RESET nats_publish.auto_msg_id));
wait_for_messages(5);
my @all = messages();
is_deeply([ map { $_->{payload} } @all ], [ 'text', "\x00\xff", '{"a": 1}', '', 'no id' ], 'payloads, in order');
is_deeply($all[0]{headers}, { 'X-A' => ['1'], 'Nats-Msg-Id' => ['my id'] }, 'headers and id are those that were given');
like($all[1]{headers}{'Nats-Msg-Id'}[0], qr/^\w{22}$/, 'an id is made');
like($all[4]{headers}{'Nats-Msg-Id'}[0], qr/^\w{22}$/, 'also when nats_publish() would make none');
is_deeply([ @{ $all[4]{headers} }{ 'X-B', 'Nats-Expected-Stream' } ], [ ['2'], ['W'] ], 'beside other headers');
is($session->value('SELECT count(*) FROM nats_outbox'), 0, 'nothing was in the table');
wait_for('their count', sub { $session->value(q(SELECT acked FROM nats_publish_stats WHERE datname = 'postgres' AND mode = 'outbox')) >= 6 });
is($session->value(q(SELECT published FROM nats_publish_stats WHERE datname = 'postgres' AND mode = 'outbox')), 6, 'they are counted as those of the outbox');
purge();

# While nothing is committed, it sleeps

SKIP:
{
	my $status = '/proc/' . wal_pid() . '/status';
	my $switches = sub { slurp_file($status) =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die };
	skip 'no /proc', 1 if !-r $status;
	wait_for('an idle relay', sub { $session->value('SELECT state FROM nats_wal_relay_status()') eq 'idle' });
	sleep 0.1;
	my $before = $switches->();
	sleep 3;
	cmp_ok($switches->() - $before, '<', 60, 'it does not look for WAL all the time');
}

# Transactions

$writer->value(q(BEGIN; SELECT nats_publish_outbox('w.a', 'rolled back'); ROLLBACK));
$writer->value(q(
	BEGIN;
	SELECT nats_publish_outbox('w.a', 'one');
	SAVEPOINT a;
	SELECT nats_publish_outbox('w.a', 'to the savepoint');
	ROLLBACK TO a;
	SELECT nats_publish_outbox('w.a', 'two');
	SAVEPOINT b;
	SELECT nats_publish_outbox('w.a', 'three');
	RELEASE b;
	COMMIT));
$writer->value(q(BEGIN; SELECT nats_publish_outbox('w.a', 'prepared'); PREPARE TRANSACTION 'good'));
$writer->value(q(BEGIN; SELECT nats_publish_outbox('w.a', 'prepared for nothing'); PREPARE TRANSACTION 'bad'));
$writer->value(q(SELECT nats_publish_outbox('w.a', 'four')));
# on a server where messages of a subject go one by one, another subject does not wait for them
wait_for_messages(4);
settle();
is_deeply(payloads(), [qw(one two three four)], 'what is committed is published, and nothing else');
$session->value(q(ROLLBACK PREPARED 'bad'));
$session->value(q(COMMIT PREPARED 'good'));
wait_for_messages(5);
settle();
is_deeply(payloads(), [qw(one two three four prepared)], 'a prepared transaction when it is committed');
purge();

{
	my $other = PsqlSession->new($node, settings => { 'nats_publish.outbox_storage' => 'wal' });
	$writer->value(q(BEGIN; SELECT nats_publish_outbox('w.a', 'written first')));
	$other->value(q(SELECT nats_publish_outbox('w.a', 'committed first')));
	$writer->value('COMMIT');
	wait_for_messages(2);
	is_deeply(payloads(), [ 'committed first', 'written first' ], 'the order is that of the commits');
	purge();
	$other->value(q(SET synchronous_commit = off; SELECT nats_publish_outbox('w.a', 'asynchronous')));
	wait_for_messages(1);
	pass('a commit that is not waited for');
	purge();
	$other->value(q(CREATE TABLE t (a int PRIMARY KEY); SELECT nats_publish_table('t', 'w.t.{op}', delivery => 'outbox'); INSERT INTO t VALUES (7)));
	wait_for_messages(1);
	like((messages())[0]{payload}, qr/"new": *\{"a": *7\}/, 'a changed row of delivery outbox');
	is((messages())[0]{subject}, 'w.t.insert', 'on its subject');
	$other->value('DROP TABLE t');
	purge();
	$other->close;
}

# What is not

like(error($writer, q(BEGIN READ ONLY; SELECT nats_publish_outbox('w.a', 'x'))), qr/25006: cannot execute nats_publish_outbox\(\) in a read-only transaction/, 'not in a read-only transaction');
$writer->value('ROLLBACK');
like(error($writer, q(SELECT nats_publish_outbox('w..a', 'x'))), qr/22023: subject has an empty token/, 'a bad subject');
like(error($writer, q(SELECT nats_publish_outbox('w.a', repeat('x', 67108865)))), qr/54000: payload is 67108865 bytes long/, 'a payload that no server takes');
is($writer->value(q(SET nats_publish.publishing = off; SELECT nats_publish_outbox('w.a', 'off') IS NULL)), 't', 'publishing = off');
$writer->value(q(SET nats_publish.publishing = dry_run; SELECT nats_publish_outbox('w.a', 'dry')));
$writer->value('RESET nats_publish.publishing');
like(error($writer, q(SET nats_publish.allowed_subjects = 'w.b.>'; SELECT nats_publish_outbox('w.a', 'x'))), qr/42501: permission denied for subject "w.a"/, 'a subject that is not allowed');
$writer->value('RESET nats_publish.allowed_subjects');

# Forged messages

$session->value(q(SELECT pg_create_logical_replication_slot('reader', 'pgoutput')));
$writer->value(q(SELECT nats_publish_outbox('w.a', 'genuine')));
wait_for_messages(1);
# behind the kind, flags, position, prefix and length of a message in pgoutput's protocol
$session->value(q(CREATE TABLE stolen AS SELECT substring(data FROM 28) AS content FROM pg_logical_slot_get_binary_changes('reader', NULL, NULL,
	'proto_version', '1', 'publication_names', 'none', 'messages', 'true') WHERE get_byte(data, 0) = ascii('M')));
$session->value(q(SELECT pg_drop_replication_slot('reader'); GRANT SELECT ON stolen TO PUBLIC));
is($session->value(q(SELECT count(*) FROM stolen WHERE position('genuine'::bytea IN content) > 0)), 1, 'somebody else can read a message');
$publisher->value(q(SELECT pg_logical_emit_message(true, 'nats_publish', content) FROM stolen));
$publisher->value(q(SELECT pg_logical_emit_message(true, 'nats_publish', 'forged')));
$publisher->value(q(SELECT pg_logical_emit_message(false, 'nats_publish', 'forged')));
$publisher->value(q(SELECT pg_logical_emit_message(true, 'nats_publish', ''::bytea)));
settle();
is_deeply(payloads(), ['genuine'], 'a message that anybody has written into the WAL is not published');
like(error($publisher, 'SELECT secret FROM nats_wal'), qr/42501: permission denied for table nats_wal/, 'nor can anybody know by what ours are known');
purge();

# What NATS does not take

$writer->value(q(SELECT nats_publish_outbox('w.large', repeat('x', 2000000), msg_id => 'large')));
$writer->value(q(SELECT nats_publish_outbox('w.large', 'behind it')));
wait_for_messages(1);
is_deeply(payloads(), ['behind it'], 'what is behind one that is too large goes on');
wait_for('a dead message', sub { $session->value('SELECT count(*) FROM nats_outbox_dead') == 1 });
is($session->value(q(SELECT subject || ' ' || msg_id || ' ' || left(last_error, 5) || ' ' || octet_length(payload) FROM nats_outbox_dead)), 'w.large large 54000 2000000',
	'which is dead, with all of it');
purge();
$writer->value(q(SELECT nats_publish_outbox('none.a', 'no stream ' || i) FROM generate_series(1, 3) i));
$writer->value(q(SELECT nats_publish_outbox('w.a', 'goes on')));
wait_for_messages(1);
pass('a subject that no stream takes holds up no other one');
wait_for('rows', sub { $session->value('SELECT count(*) FROM nats_outbox') == 3 });
like($session->value('SELECT last_error FROM nats_outbox ORDER BY id LIMIT 1'), qr/^42704: no stream takes this subject/, 'it is moved to the table, with its error');
$writer->value(q(SELECT nats_publish_outbox('none.a', 'no stream 4')));
wait_for('a row that follows', sub { $session->value('SELECT count(*) FROM nats_outbox') == 4 });
$client->create_stream('NONE', ['none.>']);
wait_for('the stream to have them', sub { $client->stream_info('NONE')->{state}{messages} == 4 });
is_deeply([ map { $_->{payload} } $client->consume('NONE') ], [ map { "no stream $_" } 1 .. 4 ], 'once there is one, they come in their order');
wait_until_drained($session);
# it looks each second whether the last one has left the table
my $direct = 0;
wait_for('the way by the table to be left', sub {
	my $before = $session->value('SELECT last_value FROM nats_outbox_id_seq');
	$writer->value(q(SELECT nats_publish_outbox('none.a', 'direct')));
	$direct++;
	wait_for('the message', sub { $client->stream_info('NONE')->{state}{messages} == 4 + $direct });
	return $session->value('SELECT last_value FROM nats_outbox_id_seq') == $before;
});
purge();

# Pause

$session->value('SELECT nats_relay_pause()');
wait_for_state($session, 'paused');
wait_for('the pause', sub { $session->value('SELECT state FROM nats_wal_relay') eq 'paused' });
$writer->value(q(SELECT nats_publish_outbox('w.a', 'later')));
sleep 1;
is_deeply(payloads(), [], 'a paused relay publishes nothing');
$session->value('SELECT nats_relay_resume()');
wait_for_messages(1);
pass('until it goes on');
purge();

# Cancel and terminate

{
	my $pid = wal_pid();
	$session->value("SELECT pg_cancel_backend($pid)");
	settle();
	is(wal_pid(), $pid, 'it survives a cancel');
	$session->value("SELECT pg_terminate_backend($pid)");
	ok(wait_for('another one', sub { my $new = wal_pid(); $new ne '' && $new ne $pid }), 'and is started again when it is ended');
}

# As after pg_upgrade, which keeps the slot and the table in a cluster of another identifier

reconfigure($node, 'nats_publish.relay_databases' => '');
wait_for('no relay of the WAL', sub { wal_pid() eq '' });
$writer->value(q(SELECT nats_publish_outbox('w.a', 'before the upgrade')));
$session->value(q(UPDATE nats_wal SET database = '1.' || split_part(database, '.', 2)));
reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
wait_for('its state', sub { $session->value('SELECT state FROM nats_wal_relay') eq 'no slot' });
like($session->value(q(SELECT detail FROM nats_check() WHERE check_name = 'wal')), qr/Call nats_wal_enable\(\), which goes on with that of a server that was upgraded/,
	'what is to be done with the slot of a server that was upgraded');
like(error(PsqlSession->new($node, settings => { 'nats_publish.outbox_storage' => 'wal' }), q(SELECT nats_publish_outbox('w.a', 'x'))),
	qr/55000: .*was not made by nats_wal_enable/s, 'until that is done, a message is an error');
like(error(PsqlSession->new($node, settings => { statement_timeout => '10s' }), 'SELECT nats_wal_disable()'),
	qr/55000: the replication slot is that of a server that was upgraded.*Call nats_wal_enable\(\) first/s, 'nor is it switched off, with what nobody has published');
unlike($session->run('SELECT nats_wal_enable()')->{error}, qr/WARNING: .*lost/, 'when it is done, nothing is lost');
$writer->value(q(SELECT nats_publish_outbox('w.a', 'after the upgrade')));
settle();
is_deeply(payloads(), [ 'before the upgrade', 'after the upgrade' ], 'it goes on where it was');
is($session->value(q(SELECT count(*), count(DISTINCT secret) FROM nats_wal)), '2|1', 'with the same secret');
$session->value(q(DELETE FROM nats_wal WHERE database LIKE '1.%'));
purge();

# Off again

$writer->value(q(BEGIN; SELECT nats_publish_outbox('w.a', 'in an open transaction')));
my ($other, $another) = map { PsqlSession->new($node) } 1 .. 2;
$_->begin('SELECT nats_wal_disable()') foreach $other, $another;
sleep 0.5;
ok($other->is_running, 'switching it off waits for who has written something');
$writer->value('COMMIT');
my @ends = map { $_->finish } $other, $another;
is($_->{error}, '', 'and then goes on') foreach @ends;
is(scalar(grep { $_->{output} eq '' } @ends), 1, 'of two at a time, one finds it off');
is_deeply(payloads(), ['in an open transaction'], 'when that was published');
is(slots(), 0, 'there is no slot');
wait_for('no relay of the WAL', sub { wal_pid() eq '' });
like(error($writer, q(SELECT nats_publish_outbox('w.a', 'x'))), qr/55000: cannot write to the outbox in the WAL/, 'a message is an error again');
is($session->value('SELECT nats_wal_disable() IS NULL'), 't', 'switching off what is off is nothing');
like(error($session, q(BEGIN; CREATE TABLE u (); SELECT nats_wal_disable())), qr/25001: nats_wal_disable\(\) cannot be called in a transaction that has written something/, 'not behind what the transaction has written');
$session->value('ROLLBACK');
like(error($session, q(BEGIN; CREATE TABLE u (); SELECT nats_wal_enable())), qr/25001: nats_wal_enable\(\) cannot be called in a transaction that has written something/, 'nor on');
$session->value('ROLLBACK');

# The next record comes behind the header of a page that is not there yet

foreach my $end ('a segment', 'a page')
{
	$session->value('SELECT nats_wal_enable()');
	$writer->value("SELECT nats_publish_outbox('w.a', '$end')");
	# records of 8 bytes more or less, until one ends where its page does
	my $fill = $end eq 'a segment' ? 'SELECT pg_switch_wal()' : q(DO $$ DECLARE rest int; BEGIN LOOP
		rest := 8192 - (pg_current_wal_insert_lsn() - '0/0') % 8192;
		EXIT WHEN rest = 8192 - 24;
		PERFORM pg_logical_emit_message(false, '', repeat('x', CASE WHEN rest > 400 THEN 100 ELSE greatest(rest - 56, 0) END));
		END LOOP; END $$);
	my $result = $session->run("$fill; SELECT nats_wal_disable()");
	is($result->{error}, '', "switching it off where $end ends");
}
is_deeply([ @{ payloads() }[-2, -1] ], [ 'a segment', 'a page' ], 'when all was published');
wait_for('no relay of the WAL', sub { wal_pid() eq '' });

# A slot made by a call that was rolled back, though it was on before

{
	my $limited = PsqlSession->new($node, settings => { statement_timeout => '10s' });
	$limited->value('BEGIN; SELECT nats_wal_enable(); ROLLBACK');
	like(error($limited, q(BEGIN; CREATE TABLE u (); SELECT nats_wal_enable())), qr/25001: /, 'it is not replaced where no other one could be made');
	is(slots(), 1, 'and is left there');
	$limited->value('ROLLBACK');
	is($limited->value('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT nats_wal_disable() IS NULL; COMMIT'), 'f', 'it is off, when what others may have written has been waited for');
	is(slots(), 0, 'and dropped');
	wait_for('no relay of the WAL', sub { wal_pid() eq '' });
	$limited->close;
}

# NATS is away when it is switched off

$session->value('SELECT nats_wal_enable()');
$nats->kill9;
reconfigure($node, 'nats_publish.ack_timeout' => '1s', 'nats_publish.connect_timeout' => '1s');
$writer->value(q(SELECT nats_publish_outbox('w.a', 'away')));
my $written = $writer->value('SELECT pg_current_wal_insert_lsn()');
is($session->value("SELECT nats_wal_disable() >= '$written'"), 't', 'it says up to where all is published, which it has waited for');
is($session->value('SELECT count(*) FROM nats_outbox'), 1, 'without NATS, what is not published is in the table then');
$session->value('SELECT nats_wal_enable()');
$writer->value(q(SELECT nats_publish_outbox('w.a', 'discarded')));
like(error($session, 'SELECT nats_wal_disable(discard => true)'), qr/and not published will not be published/, 'or left out, if that is wished');
is($session->value('SELECT count(*) FROM nats_outbox'), 1, 'it is not in the table');
$nats->start;
$client = NatsClient->new(url => $nats->url);
wait_until_drained($session);

# The end of the extension and of the database

$session->value('CREATE DATABASE other');
reconfigure($node, 'nats_publish.relay_databases' => 'postgres, other');
my $of_other = PsqlSession->new($node, dbname => 'other');
$of_other->value('CREATE EXTENSION nats_publish; SELECT nats_wal_enable()');
is(slots(), 1, 'it has its own slot');
wait_for('its relay', sub { $session->value(q(SELECT active FROM pg_replication_slots)) eq 't' });
like(error($session, 'DROP DATABASE other WITH (FORCE)'), qr/database "other" is used by an active logical replication slot/, 'and can not be dropped with it');
my $published = sub { $session->value(q(SELECT state FROM nats_wal_relay WHERE datname = 'other')) eq 'idle' };
wait_for('the relay to know its secret', $published);
$of_other->value('DROP EXTENSION nats_publish; CREATE EXTENSION nats_publish');
ok(eval { wait_for('the end of the slot', sub { slots() == 0 }, 60) }, 'when the extension is dropped, so is the slot, also if there is another one at once');
$of_other->value('SELECT nats_wal_enable()');
wait_for('the relay', $published);
$of_other->value('DROP EXTENSION nats_publish');
wait_for('the end of the slot', sub { slots() == 0 });
pass('or none');
$of_other->close;
$session->value('DROP DATABASE other WITH (FORCE)');

# Databases without a relay, and servers without logical WAL

$session->value('CREATE DATABASE without');
my $without = PsqlSession->new($node, dbname => 'without');
$without->value('CREATE EXTENSION nats_publish');
like(error($without, 'SELECT nats_wal_enable()'), qr/55000: the WAL is published by a relay, and this database has none.*relay_databases/s, 'a database without a relay');
is_deeply([ log_lines($node, 0, qr/PANIC|terminated by signal/) ], [], 'nothing has crashed');
$node->stop;

my $replica = relay_node('replica', 'nats_publish.url' => $nats->url, wal_level => $version >= 19 ? 'minimal' : 'replica', max_wal_senders => 0);
like(error(PsqlSession->new($replica), 'SELECT nats_wal_enable()'), qr/55000: the WAL can't be published with this wal_level.*Set wal_level/s, 'another wal_level');

done_testing();
