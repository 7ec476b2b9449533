# The README is true: its examples run, and its tables list what there is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use NatsServer;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my $nats = NatsServer->new(jetstream => 1, config => <<'END')->start;
authorization {
  users = [
    { user: admin, password: admin }
    { user: app, password: secret, permissions: { publish: ["orders.>"], subscribe: ["_PG.>"] } }
  ]
}
END
my $port = $nats->port;
my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->append_conf('postgresql.conf', "nats_publish.url = 'nats://admin:admin\@127.0.0.1:$port'");
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'nats_publish'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION nats_publish; CREATE DATABASE billing');

# ---- The SQL examples, in their order, each a session of its own

my @examples = $readme =~ /^```sql\n(.*?)^```$/msg;
cmp_ok(scalar(@examples), '>', 10, 'there are examples');

foreach my $i (0 .. $#examples)
{
	my $example = $examples[$i];
	# what a reader has done, and the server is not where the README puts it
	next if $example =~ /CREATE EXTENSION/;
	if ($example =~ /CREATE SERVER/)
	{
		$example =~ s/127\.0\.0\.1:4222/127.0.0.1:$port/;
		my ($result, $out, $err) = $node->psql('postgres', $example . <<'END', on_error_stop => 1);
SET ROLE app;
SET nats_publish.server = 'main';
SELECT nats_publish_async('orders.new', '{"as": "app"}'::jsonb);
SELECT nats_publish_async('other.new', '{"as": "app"}'::jsonb);
END
		like($err, qr/may not publish/, 'the user of the mapping is who the server lets publish orders, and no more');
		next;
	}
	if ($example =~ /inbox_prefix/)
	{
		# this one is about the NATS user of the example before it
		$example =~ s/127\.0\.0\.1:4222/127.0.0.1:$port/;
		$node->safe_psql('postgres', $example);
		$node->reload;
		$node->safe_psql('postgres', "SELECT seq FROM nats_publish('orders.new', 'as app')");
		my ($result, $out, $err) = $node->psql('postgres', q(SELECT nats_publish('other.new', 'as app')));
		like($err, qr/may not publish/, 'the NATS user of the example may do no more than is said');
		$node->safe_psql('postgres', 'ALTER SYSTEM RESET ALL');
		$node->reload;
		next;
	}
	if ($example =~ /allow_atomic/)
	{
		# atomic commits need a newer server, which test/run has found
		my $newer = NatsServer->new(name => 'newer', binary => $ENV{NATS_SERVER_NEW}, jetstream => 1)->start;
		my $url = $newer->url;
		my ($result, $out, $err) = $node->psql('postgres', "SET nats_publish.url = '$url';\n$example" .
			"SELECT nats_stream_info('LEDGER') -> 'state' -> 'messages'", on_error_stop => 1);
		is($err, '', "example $i runs without a word: an atomic commit");
		like($out, qr/\b2$/, 'of two messages');
		next;
	}
	my ($result, $out, $err) = $node->psql('postgres', $example, on_error_stop => 1);
	# but for what a procedure tells that takes long
	$err =~ s/^.*NOTICE:  rows of table .*\n?//mg;
	is($err, '', "example $i runs without a word: " . (split /\n/, $example)[0]);
}

is($node->safe_psql('postgres', "SELECT nats_stream_info('ORDERS') -> 'state' -> 'messages'"), '1111',
	'the stream holds what the examples published, the duplicate once');

# ---- The tables

my %documented;
$documented{$1} = [ $2, $3 ] while $readme =~ /^\| `(nats_publish\.\w+)` \| `([^`]*)` \| ([^|]*?) \|/mg;
my %existing;
foreach my $row (split /\n/, $node->safe_psql('postgres', <<'END'))
LOAD 'nats_publish';
SELECT name || '|' || CASE WHEN name = 'nats_publish.url' THEN boot_val ELSE current_setting(name) END || '|' || context
FROM pg_settings WHERE name LIKE 'nats_publish.%'
END
{
	my ($name, $value, $context) = split /\|/, $row;
	$existing{$name} = [ $value, $context ];
}
is_deeply([ sort keys %documented ], [ sort keys %existing ], 'the table of settings is complete');
foreach my $name (sort keys %existing)
{
	is($documented{$name}[0], $existing{$name}[0], "default of $name");
	like($documented{$name}[1], { superuser => qr/^superuser/, user => qr/^user/, sighup => qr/^configuration file/ }->{$existing{$name}[1]},
		"who sets $name");
}

my $functions = $node->safe_psql('postgres', <<'END');
SELECT DISTINCT proname FROM pg_proc JOIN pg_depend ON objid = pg_proc.oid
WHERE classid = 'pg_proc'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'nats_publish')
END
like($readme, qr/^\| `$_\(/m, "$_ is in a table of functions") foreach split /\n/, $functions;

done_testing();
