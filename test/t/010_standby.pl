
# Nothing local is written, so publishing works where nothing can be: in a read-only transaction and on a standby.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use PsqlSession;
use PublishTest;

my ($nats, $client) = nats_with_stream('T', ['t.>']);

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "nats_publish.url = '" . $nats->url . "'");
$primary->start;
$primary->safe_psql('postgres', 'CREATE EXTENSION nats_publish');
$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);

sub check
{
	my ($where, $session) = @_;
	is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', "$where: nats_publish()");
	is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.b', i::text)) FROM generate_series(1, 1000) i; COMMIT)), '1000', 'nats_publish_async()');
	is($session->value(q(BEGIN; SELECT nats_publish_async('t.b', 'x') AS future \gset
		SELECT (nats_await(:future)).stream; SELECT nats_flush(); SELECT status FROM nats_futures(); COMMIT)), "T\n0\nacked", 'futures');
	is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('nowhere.b', 'x'); COMMIT)), '42704', 'a COMMIT that fails');
	is($session->sqlstate(q(SELECT nats_publish('t.a b', 'x'))), '22023', 'bad input');
	is($session->value(q(BEGIN; SAVEPOINT s; SELECT nats_publish_async('nowhere.b', 'x') > 0; ROLLBACK TO s; COMMIT)), 't', 'a savepoint');
	is($session->value(q(BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT nats_publish_async('t.c', 'x') > 0; COMMIT)), 't', 'READ ONLY');
	is($session->value(q(SELECT nats_publish_async('t.c', 'x', critical => false) > 0; SELECT nats_flush() >= 0)), "t\nt", 'critical => false');
	is($session->value(q(SELECT server_name FROM nats_server_info())), 'nats1', 'nats_server_info()');
	is($session->value(q(SELECT nats_stream_info('T') #>> '{config,name}')), 'T', 'nats_stream_info()');
	is($session->value(q(SELECT (nats_get_message('T', 1)).subject)), 't.a', 'nats_get_message()');
	is($session->value(q(SELECT nats_create_stream('U', '{u.>}') #>> '{config,name}')), 'U', 'nats_create_stream()');
	$client->delete_stream('U');
	return;
}

check('on the primary', PsqlSession->new($primary));
check('in a read-only session', PsqlSession->new($primary, settings => { default_transaction_read_only => 'on' }));
my $session = PsqlSession->new($standby);
is($session->value('SELECT pg_is_in_recovery()'), 't', 'this is a standby');
check('on a standby', $session);
is($client->js('STREAM.INFO.T', { subjects_filter => 't.b' })->{state}{subjects}{'t.b'}, 3 * 1001, 'all messages are there');

# The futures of a large transaction are spilled to a temporary file, also there
$session->value(q(SET work_mem = '64kB'));
is($session->value(q(BEGIN; SELECT count(nats_publish_async('t.d', 'x')) FROM generate_series(1, 20000); SELECT nats_flush() >= 0;
	SELECT count(seq) FROM nats_futures(); COMMIT)), "20000\nt\n20000", 'a large transaction on a standby');

# Without a postmaster
$primary->stop;
{
	my $sql = "SELECT nats_publish('t.single', 'x')\nSELECT nats_publish_on_commit('t.single', 'x')\n";
	run_log([ 'postgres', '--single', '-F', '-D', $primary->data_dir, 'postgres' ], '<', \$sql, '>', \my $output, '2>', \my $errors);
	unlike($errors, qr/ERROR|FATAL|PANIC/, 'in single-user mode');
	is($client->js('STREAM.INFO.T', { subjects_filter => 't.single' })->{state}{subjects}{'t.single'}, 2, 'the messages are there');
}

# A promotion under a live session
$standby->promote;
is($session->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'T', 'the session goes on over a promotion');
is($session->value(q(CREATE TABLE t AS SELECT nats_publish_async('t.a', 'x') AS future; SELECT count(*) FROM t)), '1', 'and can write then');

done_testing();
