
# Changes that are decoded while others change their table, again and again: what is known of the table is made anew between
# any two looks at it. What the relay holds of it must not be what it was made of before.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $ROWS = 1500;
my $LONG = 180;    # seconds: for what is a matter of seconds on an idle machine

my ($nats, $client) = nats_with_stream('W', ['w.>'], storage => 'file');
my $node = relay_node('main', 'nats_publish.url' => $nats->url, wal_level => 'logical', log_statement => 'none', autovacuum => 'off');
my $session = PsqlSession->new($node);

# With so many triggers that the memory of those before is used for something else at once.
$session->value('SELECT nats_wal_enable()');
$session->value(q(CREATE TABLE busy (id text PRIMARY KEY);
	SELECT nats_publish_table('busy', 'w.busy', delivery => 'wal', payload => 'id');
	CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE TRIGGER a AFTER INSERT ON busy FOR EACH STATEMENT EXECUTE FUNCTION nothing();
	CREATE TRIGGER b AFTER INSERT ON busy FOR EACH STATEMENT EXECUTE FUNCTION nothing();
	ALTER TABLE busy DISABLE TRIGGER a, DISABLE TRIGGER b));
wait_for('a relay of the WAL', sub { $session->value(q(SELECT state FROM nats_wal_relay)) eq 'idle' });
my $pid = $session->value('SELECT pid FROM nats_wal_relay');

# One changes the table; and one has the relay move messages to the outbox, behind which it looks at the catalog as if for the first time.
my %others = (
	table => q(DO $$ BEGIN WHILE pg_try_advisory_xact_lock(1) LOOP EXECUTE 'ALTER TABLE busy SET (fillfactor = ' || 50 + floor(random() * 50) || ')';
		COMMIT; PERFORM pg_sleep(0.0005); END LOOP; END $$),
	nowhere => q(SET nats_publish.outbox_storage = wal; DO $$ BEGIN WHILE pg_try_advisory_xact_lock(2) LOOP PERFORM nats_publish_outbox('nowhere.' || gen_random_uuid(), 'x');
		COMMIT; PERFORM pg_sleep(0.002); END LOOP; END $$));
my %sessions = map { $_ => PsqlSession->new($node) } keys %others;
$sessions{$_}->begin($others{$_}) foreach sort keys %others;
my $writer = PsqlSession->new($node);
is($writer->run("DO \$\$ BEGIN FOR i IN 1 .. $ROWS LOOP INSERT INTO busy VALUES (i); COMMIT; PERFORM pg_sleep(0.001); END LOOP; END \$\$", $LONG)->{error}, '', 'rows are written');
# the end of the others: they do not get their locks any more
$session->value('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
is($sessions{$_}->finish($LONG)->{error}, '', "while others change the catalog: $_") foreach sort keys %sessions;

my $lsn = $session->value('SELECT pg_current_wal_insert_lsn()');
wait_for('the WAL', sub { $session->value("SELECT confirmed_lsn >= '$lsn' FROM nats_wal_relay") eq 't' }, $LONG);
is_deeply([ map { $_->{payload} } $client->consume('W') ], [ 1 .. $ROWS ], 'each change is published, in order');
is($session->value('SELECT count(*) FROM nats_outbox_dead'), 0, 'none is dead');
is($session->value('SELECT pid FROM nats_wal_relay'), $pid, 'by one relay, from the first to the last');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'nothing has crashed');

done_testing();
