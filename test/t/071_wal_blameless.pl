
# What is no message's fault, nor NATS', moves none to the table, buries none, and does not keep others: the table is locked, decoding
# takes long, memory is short, standbys do not have what was moved.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('B', ['b.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.connect_timeout' => '500ms',
	'nats_publish.outbox_storage' => 'wal',
	wal_level => 'logical',
	max_wal_senders => 4,
	log_statement => 'none');
my $session = PsqlSession->new($node);
$session->value('SELECT nats_wal_enable()');
wait_for('a relay of the WAL', sub { column('state') eq 'idle' });

# One that the stream refuses.
my $REFUSED = q('{"Nats-Expected-Stream": "OTHER"}');

sub column { return $session->value("SELECT $_[0] FROM nats_wal_relay"); }
sub write_message { return $session->value("SELECT nats_publish_outbox('$_[0]', '$_[1]')"); }
sub write_refused { return $session->value("SELECT nats_publish_outbox('$_[0]', '$_[1]', $REFUSED)"); }
sub payloads { my ($subject) = @_; return map { $_->{payload} } grep { $_->{subject} eq $subject } NatsClient->new(url => $nats->url)->consume('B'); }
sub in_table { return $session->value(q(SELECT string_agg(subject || ' ' || convert_from(payload, 'UTF8'), ', ' ORDER BY id) FROM nats_outbox)); }
sub dead { return $session->value(q(SELECT count(*) FROM nats_outbox_dead)); }

sub lock_table
{
	my $holder = PsqlSession->new($node);
	$holder->value('BEGIN; LOCK TABLE nats_outbox IN ACCESS EXCLUSIVE MODE');
	return $holder;
}

# All is moved from then on.
sub begin_outage
{
	reconfigure($node, 'nats_publish.wal_divert_after' => '500ms');
	$nats->kill9;
	return;
}

sub end_outage
{
	my $offset = log_length($node);
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	$nats->start;
	wait_for('messages to go again', sub { log_lines($node, $offset, qr/WAL relay publishes again/) > 0 });
	return;
}

sub wait_for_wal
{
	my $position = $session->value('SELECT pg_current_wal_insert_lsn()');
	return wait_for("the WAL up to $position", sub { column("confirmed_lsn >= '$position'") eq 't' });
}

# Until so many errors have been met, or something else is so. A pause after each would be twice as long as the last one.
sub wait_for_errors
{
	my ($count, $or) = @_;
	my $last = column('last_error_at');
	for (1 .. $count)
	{
		wait_for('an error', sub { ($or && $or->()) || column('last_error_at') ne $last });
		$last = column('last_error_at');
	}
	return;
}

sub goes_on
{
	my ($what) = @_;
	my $published = column('published');
	my $begun = time;
	write_message('b.other', $what);
	wait_for('a message', sub { column('published') > $published });
	cmp_ok(time - $begun, '<', 3, "others are published while $what");
	return;
}

# The table has a message, and it is not to be seen whether it still does

{
	write_refused('b.refused', '1');
	wait_for('it to be moved', sub { in_table() eq 'b.refused 1' });
	my $holder = lock_table();
	wait_for_errors(6);
	goes_on('the table is locked that has a refused one');
	write_message('b.refused', '2');
	$holder->close;
	wait_for('the next one', sub { in_table() eq 'b.refused 1, b.refused 2' });
	$session->value('UPDATE nats_outbox SET headers = NULL; SELECT nats_outbox_retry_all()');
	wait_until_drained($session);
	is(join(' ', payloads('b.refused')), '1 2', 'its next one waits for it');
}

# Likewise, of one that others wait for, as nothing is wrong with it

{
	begin_outage();
	write_message('b.kept', '1');
	wait_for('it to be moved', sub { in_table() eq 'b.kept 1' });
	my $holder = lock_table();
	end_outage();
	wait_for_errors(2);
	goes_on('the table is locked that has a good one');
	$holder->close;
	wait_until_drained($session);
	is(join(' ', payloads('b.kept')), '1', 'which is published, too');
}

# Likewise, of one that is to be moved

{
	my $holder = lock_table();
	my $offset = log_length($node);
	begin_outage();
	write_message('b.late', '1');
	wait_for('all to be moved', sub { log_lines($node, $offset, qr/moves messages to nats_outbox/) > 0 });
	wait_for('an attempt to move it', sub { log_lines($node, $offset, qr/cannot move messages to nats_outbox/) > 0 });
	end_outage();
	wait_for_errors(2);
	goes_on('the table is locked that is to have one');
	write_message('b.late', '2');
	$holder->close;
	wait_for('both', sub { payloads('b.late') == 2 });
	is(join(' ', payloads('b.late')), '1 2', 'which is published, and before its next one');
}

# Decoding takes longer than NATS may be away, and there was no connection yet

{
	$session->value(q(CREATE TYPE slowness AS ENUM ('x');
		CREATE FUNCTION slow_json(slowness) RETURNS json IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN to_json(1); END';
		CREATE CAST (slowness AS json) WITH FUNCTION slow_json(slowness);
		CREATE TABLE slow (id int PRIMARY KEY, v slowness);
		SELECT nats_publish_table('slow', subject => 'b.slow', delivery => 'wal')));
	wait_for_wal();
	reconfigure($node, 'nats_publish.wal_divert_after' => '1s');
	my $offset = log_length($node);
	my $pid = column('pid');
	kill('STOP', $pid) == 1 or die "no relay to stop: $!";
	$session->value(q(INSERT INTO slow SELECT i, 'x' FROM generate_series(1, 150) i));
	kill('TERM', $pid) == 1 && kill('CONT', $pid) == 1 or die "no relay to end: $!";
	wait_for('another one', sub { my $other = column('pid'); $other ne '' && $other ne $pid });
	wait_for_wal();
	is(scalar(log_lines($node, $offset, qr/moves messages to nats_outbox/)), 0, 'after a long time of decoding nothing is moved');
	is(column('diverted'), 0, 'nor is it counted');
	is(scalar(payloads('b.slow')), 150, 'and all is published');
	reconfigure($node, 'nats_publish.wal_divert_after' => '1h');
	wait_until_drained($session);
}

# Memory is short for some seconds, for a row that needs much of it

{
	my $dead = dead();
	$session->value(q(CREATE TABLE big (id int PRIMARY KEY, length int);
		CREATE TRIGGER publish AFTER INSERT ON big FOR EACH ROW WHEN (repeat('x', new.length) > 'w')
			EXECUTE FUNCTION nats_publish_change('delivery=wal', 'subject=b.big', 'columns=id');
		ALTER TABLE big DISABLE TRIGGER publish));
	$session->value(q(INSERT INTO big VALUES (1, 1)));
	wait_for('a row', sub { payloads('b.big') == 1 });
	my $pid = column('pid');
	my ($size) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
	system_or_bail('prlimit', '--pid', $pid, '--as=' . ($size + 32 * 1024) * 1024 . ':');
	kill('STOP', $pid) == 1 or die "no relay to stop: $!";
	$session->value("INSERT INTO big VALUES $_") foreach '(2, 1)', '(3, 100000000)';
	kill('CONT', $pid);
	ok(eval { wait_for('a row', sub { payloads('b.big') == 2 }, 20) }, 'what was committed before a row for which memory is short does not wait for that');
	wait_for_errors(5, sub { dead() > $dead });
	like(column('last_error'), qr/^out of memory/, 'memory is short');
	system_or_bail('prlimit', '--pid', $pid, '--as=unlimited:');
	$node->reload;
	wait_for_wal();
	is(dead(), $dead, 'a row for which memory was short is not dead');
	is(scalar(payloads('b.big')), 3, 'it is published when there is more');
}

# A standby does not have what was moved to the table

{
	my $offset = log_length($node);
	my $holder = lock_table();
	write_refused('b.refused', '3');
	wait_for('an attempt to move it', sub { log_lines($node, $offset, qr/cannot move messages to nats_outbox/) > 0 });
	$session->value('SET synchronous_commit = local');
	reconfigure($node, synchronous_standby_names => 'nobody');
	$holder->close;
	wait_for('it to be moved', sub { in_table() eq 'b.refused 3' });
	ok(eval { wait_for('the state', sub { column('state') eq 'waiting for standbys' }, 20) }, 'it is seen that the position waits for standbys');
	sleep 1;
	is(scalar(log_lines($node, $offset, qr/WAL relay waits for standbys/)), 1, 'and in the log once');
	reconfigure($node, synchronous_standby_names => undef);
	wait_for_wal();
	ok(wait_for('the state', sub { column('state') eq 'idle' }), 'that is over');
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed');
done_testing();
