
# Copies of a database that has a relay: dumps, replicas, templates. What waits in the original is not published by a copy that
# was told not to, who makes one needs the documented privileges and no others, and what the relay is in the way of has a way out.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use PsqlSession;
use PublishTest;
use RelayTest;

my ($nats, $client) = nats_with_stream('C', ['c.>']);
my $node = relay_node('main',
	'nats_publish.url' => $nats->url,
	wal_level => 'logical',
	max_worker_processes => 20);
my $session = PsqlSession->new($node);
my $dir = PostgreSQL::Test::Utils::tempdir('dump');

sub stored { return $client->stream_info('C')->{state}{messages}; }

# ---- A pause holds in a restored dump from the first message on

{
	my $source = $node->connstr('postgres');
	$session->value('SELECT nats_relay_pause()');
	wait_for_state($session, 'paused');
	$session->value(q(SELECT count(nats_publish_outbox('c.' || i, 'x')) FROM generate_series(1, 20) AS i));
	my %formats = (
		'COPY' => [ [ '-a', '-Fp', '-f', "$dir/copy.sql" ], [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/copy.sql" ] ],
		'INSERTs' => [ [ '-a', '--inserts', '-f', "$dir/inserts.sql" ], [ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-f', "$dir/inserts.sql" ] ],
		'without comments' => [ [ '-Fc', '--no-comments', '-f', "$dir/silent" ], [ 'pg_restore', "$dir/silent" ] ]);
	foreach my $how (sort keys %formats)
	{
		my ($dump, $restore) = @{ $formats{$how} };
		my $to = publishing_database($node, "restored by $how");
		reconfigure($node, 'nats_publish.relay_databases' => qq(postgres, "$to"));
		my $restored = PsqlSession->new($node, dbname => $to);
		wait_for_state($restored, 'idle');
		command_ok([ 'pg_dump', @$dump, '-d', $source ], "pg_dump: $how");
		command_ok([ @$restore, '-d', $node->connstr($to) ], 'and restore, where a relay waits for messages');
		wait_for_state($restored, 'paused');
		is($restored->value('SELECT count(*) FROM nats_outbox'), 20, 'what waits, waits');
	}

	# pg_restore -j brings back tables in any order: here, that of messages alone
	my $to = 'restored in parallel';
	$node->safe_psql('postgres', qq(CREATE DATABASE "$to" TEMPLATE template0));
	command_ok([ 'pg_dump', '-Fd', '-f', "$dir/directory", '-d', $source ], 'pg_dump: a directory');
	my ($list) = run_command([ 'pg_restore', '-l', "$dir/directory" ]);
	append_to_file("$dir/list", $list =~ s/^.* TABLE DATA public nats_control .*\n//mr);
	command_ok([ 'pg_restore', '-j', '4', '-L', "$dir/list", '-d', $node->connstr($to), "$dir/directory" ], 'and restore all but what the relay is told');
	reconfigure($node, 'nats_publish.relay_databases' => qq(postgres, "$to"));
	my $restored = PsqlSession->new($node, dbname => $to);
	wait_for_state($restored, 'paused');
	is($restored->value('SELECT count(*) FROM nats_outbox'), 20, 'what waits, waits for that');
	is(stored(), 0, 'nothing was published by any of them');
	$restored->value('SELECT nats_relay_resume()');
	wait_until_drained($restored);
	is(stored(), 20, 'until the copy is resumed');
	is($restored->value(q(SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'nats_publish')),
		$restored->value(q(SELECT comment FROM pg_available_extensions WHERE name = 'nats_publish')), 'and then the comment is as it was');
	reconfigure($node, 'nats_publish.relay_databases' => 'postgres');
	$session->value('SELECT nats_relay_resume()');
	wait_until_drained($session);
	is(stored(), 20, 'the original publishes the same when it is resumed');
	$client->purge('C');
}

done_testing();
