
# Each function as the first that a session calls, and again in a transaction that has failed before.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;

use NatsClient;
use PsqlSession;
use PublishTest;

my ($nats) = nats_with_stream('T', ['t.>']);
my $node = publishing_node('main', 'nats_publish.url' => $nats->url,
	restart_after_crash => 'on');

my %first = (
	q(SELECT nats_flush()) => '0',
	q(SELECT nats_flush('1 s')) => '0',
	q(SELECT nats_disconnect()) => 'f',
	q(SELECT count(*) FROM nats_futures()) => '0',
	q(SELECT nats_await(1)) => '22023',
	q(SELECT nats_await(NULL)) => qr/^(22\d{3})?$/,
	q(SELECT published FROM nats_session_stats()) => '0',
	q(SELECT server_name FROM nats_server_info()) => 'nats1',
	q(SELECT (nats_publish('t.a', 'x')).stream) => 'T',
	q(SELECT nats_publish_async('t.a', 'x') > 0) => 't',
	q(SELECT nats_publish_async('t.a', 'x', critical => false) > 0) => 't',
	q(SELECT nats_publish(NULL, 'x')) => '22004',
	q(SELECT nats_publish('', 'x')) => '22023',
	q(SELECT nats_jetstream('INFO') ? 'type') => 't',
	q(SELECT nats_stream_info('T') #>> '{config,name}') => 'T',
	q(SELECT nats_get_message('T', 100000)) => '42704',
	q(SELECT nats_create_stream('T2', '{u.>}') #>> '{config,name}') => 'T2',
	q(LOAD 'nats_publish') => '');

# A crash would take all sessions with it: wait until there are sessions again.
sub session
{
	wait_until_back($node);
	return PsqlSession->new($node);
}

sub check_first
{
	my ($what, $before, $sql) = @_;
	my $session = session();
	$session->run($before) if $before;
	my $result = $session->run($sql);
	my $got = $result->{error} =~ /closed the connection/ ? 'crash' : ($result->{sqlstate} || $result->{output});
	my $expected = $first{$sql};
	if (ref $expected) { like($got, $expected, "$sql$what"); }
	else { is($got, $expected, "$sql$what"); }
	return;
}

foreach my $sql (sort keys %first)
{
	check_first(' as the first call', '', $sql);
	NatsClient->new(url => $nats->url)->js('STREAM.DELETE.T2') if $sql =~ /T2/;
}
foreach my $sql (sort keys %first)
{
	check_first(' in the first transaction, after an error', q(BEGIN; SAVEPOINT s; SELECT nats_publish('t', NULL::int); ROLLBACK TO s), $sql);
	NatsClient->new(url => $nats->url)->js('STREAM.DELETE.T2') if $sql =~ /T2/;
}

# With no server there is an error or there is none, but nothing worse
$nats->stop;
foreach my $sql (sort keys %first)
{
	my $session = session();
	foreach my $when ('first', 'second')
	{
		my $result = $session->run($sql);
		unlike($result->{error}, qr/closed the connection/, "$sql as the $when call, without a server") or last;
	}
}

done_testing();
