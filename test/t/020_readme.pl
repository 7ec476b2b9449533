# The examples of the documentation run, on each version: each in a session of its own, and all typed in their order into one.

use strict;
use warnings FATAL => 'all';

use IPC::Run ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Documentation;
use NatsClient;
use NatsServer;
use PublishTest;

my @examples = map { blocks($_, 'sql') } pages();
cmp_ok(scalar(@examples), '>', 40, 'there are examples');

my ($nats, $client) = nats_with_users();
my $node = documented_cluster('readme', "nats://admin:admin_secret\@127.0.0.1:" . $nats->port);

# The nats-server whose users doc/connections.md configures
sub nats_with_users
{
	my ($authorization) = grep { /^authorization/ } map { $_->{text} } blocks('doc/connections.md', 'conf');
	my $server = NatsServer->new(jetstream => 1, config => $authorization)->start;
	return ($server, NatsClient->new(url => $server->url, user => 'admin', pass => 'admin_secret'));
}

# A cluster as the README and doc/wal.md configure one, with what its reader has: a database, and the extension where it is not an example
sub documented_cluster
{
	my ($name, $url) = @_;
	my $cluster = PostgreSQL::Test::Cluster->new($name);
	$cluster->init;
	$cluster->append_conf('postgresql.conf', "nats_publish.url = '$url'");
	$cluster->append_conf('postgresql.conf', $_->{text}) foreach grep { $_->{text} =~ /shared_preload|wal_level/ } map { blocks($_, 'ini') } qw(README.md doc/wal.md);
	$cluster->start;
	$cluster->safe_psql('postgres', 'CREATE DATABASE billing');
	return $cluster;
}

# What psql prints on a terminal, and what it complains of. Before 17 nats_wal_enable() warns, as doc/wal.md says; and nats_publish_rows() tells
# how far it is.
sub typed
{
	my ($cluster, $sql) = @_;
	my ($out, $err);
	IPC::Run::run([ 'psql', '-X', '-q', '-P', 'pager=off', '-P', 'footer=off', '-v', 'ON_ERROR_STOP=1', '-d', $cluster->connstr('postgres') ],
		'<', \$sql, '>', \$out, '2>', \$err);
	$err =~ s/^WARNING:  a standby that is promoted does not have the replication slot\nDETAIL:.*\nHINT:.*\n//m if $cluster->pg_version < 17;
	$err =~ s/^.*NOTICE:  rows of table .*\n?//mg;
	return ($out, $err);
}

# Where the documentation puts the server, another port is here.
sub at { my ($server, $sql) = @_; my $port = $server->port; return $sql =~ s/127\.0\.0\.1:4222/127.0.0.1:$port/gr; }

# Transactions, times and widths of columns differ from run to run.
sub comparable { my ($text) = @_; return $text =~ s/"xid":\d+/"xid":N/gr =~ s/"ts":"[^"]*"/"ts":"T"/gr =~ s/-{2,}/--/gr =~ s/ +/ /gr =~ s/\s+$//gmr; }

# ---- Each in a session of its own

foreach my $example (@examples)
{
	my $sql = at($nats, $example->{text});
	if ($sql =~ /ALTER SYSTEM/) { next; }
	if ($sql =~ /allow_(?:atomic|msg_\w+)/) { runs_on_newer($example, $sql); next; }
	my ($out, $err) = typed($node, $sql);
	is($err, '', "$example->{name} runs without a word");
	like(comparable($out), qr/\Q@{[ comparable($example->{output}) ]}\E\s*$/, "$example->{name} prints what is said") if $example->{output};
	is_user_app() if $sql =~ /CREATE SERVER/;
}

# What needs a newer server, which test/run has found
sub runs_on_newer
{
	my ($example, $sql) = @_;
	my $newer = NatsServer->new(name => 'newer', binary => $ENV{NATS_SERVER_NEW}, jetstream => 1)->start;
	my $url = $newer->url;
	my ($out, $err) = typed($node, "SET nats_publish.url = '$url';\n$sql");
	is($err, '', "$example->{name} runs without a word on a newer server");
	my ($stream) = $sql =~ /nats_create_stream\('(\w+)'/;
	my %left = (LEDGER => 2, TASKS => 0, VISITS => 1);
	is(NatsClient->new(url => $newer->url)->stream_info($stream)->{state}{messages}, $left{$stream}, "$stream has what it leaves");
	return;
}

# By the user mapping of the example
sub is_user_app
{
	foreach my $try ([ 'orders.new', qr/^$/ ], [ 'other.new', qr/may not publish/ ])
	{
		my ($out, $err) = typed($node, "SET ROLE app; SET nats_publish.server = 'main'; SELECT nats_publish('$try->[0]', 'as app')");
		like($err, $try->[1], "the user of the mapping publishes to $try->[0] as the server lets it");
	}
}

# By the examples, by the relays for five of them, and by app above. No stream takes outbox.event, whose message stays.
$node->poll_query_until('postgres', q(SELECT array_agg(subject) = '{outbox.event.order}' FROM nats_outbox)) or die 'the relay has not published';
is($client->stream_info('ORDERS')->{state}{messages}, 2120, 'the stream holds what the examples published, the duplicate once');

# ---- As the settings of doc/connections.md say

{
	my ($settings) = map { $_->{text} } blocks('doc/connections.md', 'ini');
	my $file = PostgreSQL::Test::Utils::tempdir('password') . '/nats_password';
	append_to_file($file, "secret\n");
	$settings =~ s{'/etc/postgresql/nats_password'}{'$file'};
	$node->append_conf('postgresql.conf', at($nats, $settings));
	$node->reload;
	my ($out, $err) = typed($node, q(SELECT nats_publish('orders.new', 'as app') \g /dev/null));
	is($err, '', 'the NATS user of the settings publishes orders');
	($out, $err) = typed($node, q(SELECT nats_publish('other.new', 'as app')));
	like($err, qr/may not publish/, 'and no more than the server lets it');
}
$node->stop;

# ---- All typed into one session, with a server that has all that they use

{
	my $newer = NatsServer->new(name => 'all', binary => $ENV{NATS_SERVER_NEW}, jetstream => 1)->start;
	my $cluster = documented_cluster('typed', $newer->url);
	my ($out, $err) = typed($cluster, join "\n", map { at($newer, $_->{text}) } @examples);
	is($err, '', 'the examples in one session run without a word');
	cmp_ok(NatsClient->new(url => $newer->url)->stream_info('ORDERS')->{state}{messages}, '>', 2000, 'and have published');
}

done_testing();
