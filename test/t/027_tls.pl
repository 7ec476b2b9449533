
# TLS: what it protects, what it refuses, and that the session is as it is without, whatever goes wrong.

use strict;
use warnings FATAL => 'all';

use Digest::MD5 qw(md5_hex);
use IPC::Run ();
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use ByteProxy;
use Certificates;
use FakeServer;
use NatsClient;
use NatsServer;
use PublishTest;
use RelayTest;

# What ends at once, and what ends at its own timeout, on a loaded machine.
my $BOUND = 20;

# As in 006_memory.pl
my $FEW_MB = 8 * 1024;

my $PUBLISH = q(SELECT (nats_publish('t.a', 'x')).stream);

my $certificates = Certificates->new;
my $ca = $certificates->ca_file;
my $HERE = 'DNS:localhost,IP:127.0.0.1';

# A running server with a certificate of its own, and a stream.
sub secure_server
{
	my ($name, $certificate, %args) = @_;
	my $nats = NatsServer->new(
		name => $name,
		jetstream => 1,
		tls => { %{ $certificates->make($name, names => $HERE, %$certificate) }, %{ delete $args{tls} // {} } },
		%args)->start;
	return $nats;
}

# A client that sees to nothing but TLS: whom it is connected to is not what this tests.
sub client
{
	my ($nats, %args) = @_;
	return NatsClient->new(url => $nats->url, %args, tls => { SSL_verify_mode => 0, %{ $args{tls} // {} } });
}

my $nats = secure_server('secure', {});
client($nats)->create_stream('T', ['t.>'], storage => 'file');
my $node = relay_node('main',
	'nats_publish.url' => $nats->tls_url,
	'nats_publish.tls_ca_file' => $ca,
	'log_min_error_statement' => 'panic');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub session { return publishing_session($node, @_); }

# How many messages the stream has of a subject
sub stored
{
	my ($subject) = @_;
	return client($nats)->js('STREAM.INFO.T', { subjects_filter => $subject })->{state}{subjects}{$subject} // 0;
}

sub session_to { my ($url, %settings) = @_; return session(url => $url, %settings); }

# The session cannot connect, says why, and can go on elsewhere.
sub refused
{
	my ($what, $session, $reason, $sqlstate) = @_;
	my $result = $session->run($PUBLISH);
	like($result->{sqlstate}, $sqlstate // qr/^58000$/, "$what: refused");
	like($result->{error}, $reason, 'with the reason');
	cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
	is($session->value(set(url => $nats->tls_url, tls_ca_file => $ca, tls_cert_file => '', tls_key_file => '',
		tls_handshake_first => 'off', connect_timeout => '10s') . $PUBLISH), 'T', 'and the session can go on');
	return;
}

sub set { my (%settings) = @_; return join '', map { "SET nats_publish.$_ = '$settings{$_}'; " } sort keys %settings; }

my $CERTIFICATE = qr/certificate|mismatch|unknown ca/i;

# All that is sent without TLS

my $session = session();
is($session->value($PUBLISH), 'T', 'tls:// with a name');
is($session->value('SELECT tls, url FROM nats_server_info()'), 't|' . $nats->tls_url, 'and the session knows');
is($session->value(q(SELECT nats_stream_info('T') #>> '{config,name}')), 'T', 'a request');
is($session->value(q(SELECT convert_from(payload, 'UTF8') FROM nats_get_message('T', 1))), 'x', 'a message is read back');
is(session_to($nats->tls_url('127.0.0.1'))->value($PUBLISH), 'T', 'tls:// with an address');
is(session_to($nats->url)->value("$PUBLISH; SELECT tls, url FROM nats_server_info()"), "T\nt|" . $nats->url,
	'nats:// to a server that requires TLS has it');

my $client = client($nats);
$client->purge('T');
$session->value(q(BEGIN; SELECT count(nats_publish_async('t.a', i::text)) FROM generate_series(1, 10000) i; COMMIT));
is_deeply([ map { $_->{payload} } $client->consume('T') ], [ 1 .. 10000 ], '10,000 messages in a transaction, in their order');
$client->purge('T');
$session->value(q(BEGIN; INSERT INTO t VALUES (1); SELECT count(nats_publish_on_commit('t.a', i::text)) FROM generate_series(1, 1000) i));
is($client->stream_info('T')->{state}{messages}, 0, 'messages held for COMMIT');
$session->value('COMMIT');
is_deeply([ map { $_->{payload} } $client->consume('T') ], [ 1 .. 1000 ], 'which sends them');
$client->purge('T');
$session->value(q(BEGIN; SELECT count(nats_publish_async('t.a', repeat(i::text, 900000))) FROM generate_series(1, 9) i; COMMIT;
	SELECT nats_publish('t.a', repeat('x', 900000))));
is(join('', map { length($_->{payload}) . substr($_->{payload}, -1) } $client->consume('T')),
	join('', map { "900000$_" } 1 .. 9, 'x'), 'payloads of many records');

$session->value(q(SELECT nats_publish_outbox('t.relay', 'x')));
ok(wait_until_drained($session), 'the relay has TLS too');
is(stored('t.relay'), 1, 'and has published');

# Small and large ones, waited for and not: the parts of a large text that begin at 1 and end anywhere
{
	my $seed = int rand 1_000_000;
	srand $seed;
	my @sizes = shuffle(1 .. 50, map { 1 + int rand 40000 } 1 .. 700);
	my $text = join ' ', 1 .. 10000;
	$client->purge('T');
	my $sizes = join ',', @sizes;
	$session->value(qq(SELECT count(CASE WHEN i % 10 = 0 THEN (nats_publish('t.a', left(text, size))).seq ELSE nats_publish_async('t.a', left(text, size)) END)
		FROM (SELECT string_agg(i::text, ' ' ORDER BY i) AS text FROM generate_series(1, 10000) i) AS text,
			unnest('{$sizes}'::int[]) WITH ORDINALITY AS sizes (size, i)));
	my @expected = map { substr($text, 0, $_) } @sizes;
	is_deeply([ map { $_->{payload} } $client->consume('T') ], \@expected, "small and large ones (seed $seed)");
	my $first = $client->stream_info('T')->{state}{first_seq};
	is($session->value("SELECT count(*) FROM generate_series($first, $first + @{[$#sizes]}) number, nats_get_message('T', number)"
			. " WHERE md5(payload) = (string_to_array('" . join(',', map { md5_hex($_) } @expected) . "', ','))[number - $first + 1]"),
		scalar @sizes, 'read back by the session too');
	$client->purge('T');
}

# TLS or nothing

my $plain = NatsServer->new(name => 'plain', jetstream => 1)->start;
my $proxy = ByteProxy->new($plain);
refused('tls:// to a server without TLS', session_to($proxy->tls_url =~ s{//}{//alice:s3cret@}r), qr/TLS|[Ss]ecure/);
is($proxy->connections > 0, 1, 'it was asked');
unlike($proxy->client_bytes, qr/CONNECT|s3cret/, 'and told nothing');

my $members = secure_server('members', {}, config => 'authorization { user: "alice", password: "s3cret" }');
client($members, user => 'alice', pass => 's3cret')->create_stream('T', ['t.>']);
foreach my $scheme ('nats', 'tls')
{
	$proxy = ByteProxy->new($members, edit => sub { return $_[0] =~ s/"tls_(?:required|available|verify)":true,?//gr; });
	my $session = session_to("$scheme://alice:s3cret\@localhost:$proxy->{port}", connect_timeout => '5s');
	if ($scheme eq 'tls')
	{
		refused('an INFO that somebody took TLS out of', $session, qr/TLS|[Ss]ecure/);
		is($proxy->connections > 0, 1, 'it was read');
		unlike($proxy->client_bytes, qr/CONNECT|s3cret/, 'and answered with nothing');
	}
	else
	{
		$session->run($PUBLISH);
		like($proxy->client_bytes, qr/CONNECT/, 'nats:// is what it works against');
	}
}
$proxy = ByteProxy->new($members);
is(session_to($proxy->tls_url =~ s{//}{//alice:s3cret@}r)->value($PUBLISH), 'T', 'the same with the INFO as it is');
unlike($proxy->client_bytes, qr/CONNECT|s3cret/, 'which nobody can read');

$proxy = ByteProxy->new($nats, edit => sub { return $_[0] =~ s/^(INFO .*\r\n)\z/$1-ERR 'Authorization Violation'\r\n/r; });
like(session_to($proxy->tls_url)->run($PUBLISH)->{sqlstate}, qr/^(58000)?$/, 'what somebody put behind the INFO is not believed');

# Whose certificate?

my %strange = (
	'another name' => [ { names => 'DNS:elsewhere,IP:127.0.0.1' }, 'localhost' ],
	'a longer name' => [ { names => 'DNS:localhost.example,IP:127.0.0.1' }, 'localhost' ],
	'no address' => [ { names => 'DNS:localhost' }, '127.0.0.1' ],
	'another address' => [ { names => 'DNS:localhost,IP:127.0.0.2' }, '127.0.0.1' ],
	'the address as a name' => [ { names => 'DNS:127.0.0.1,DNS:*.0.0.1' }, '127.0.0.1' ],
	'only the address' => [ { names => 'IP:127.0.0.1' }, 'localhost' ],
	'an end that has passed' => [ { expired => 1 }, 'localhost' ],
	'another authority' => [ { ca => 'foreign' }, 'localhost' ]);
foreach my $what (sort keys %strange)
{
	my ($certificate, $host) = @{ $strange{$what} };
	my $server = secure_server('strange', $certificate);
	$proxy = ByteProxy->new($server);
	refused("a certificate with $what", session_to("tls://alice:s3cret\@$host:$proxy->{port}"), $CERTIFICATE);
	refused("a certificate with $what by nats://", session_to("nats://$host:$proxy->{port}"), $CERTIFICATE);
	is($proxy->connections > 0, 1, 'it was seen');
}
my $address = secure_server('address', { names => 'IP:127.0.0.1' });
client($address)->create_stream('T', ['t.>']);
is(session_to($address->tls_url('127.0.0.1'))->value($PUBLISH), 'T', 'only the address, which is what is connected to');
refused('the authorities of the machine', session(tls_ca_file => ''), $CERTIFICATE);
is(session_to($address->tls_url . ',' . $nats->tls_url)->value($PUBLISH), 'T', 'the second of a list is what it says');

# Files that are no good

my $secret = $certificates->write('secret', "s3cret\n");
my $closed = $certificates->write('closed', slurp_file($ca));
chmod 0, $closed;
my $ours = $certificates->make('client');
my %files = ('not there' => '/no/such/file', 'no certificate' => $secret, 'a directory' => '/', 'not readable' => $closed);
foreach my $what (sort keys %files)
{
	refused("a CA file that is $what", session(tls_ca_file => $files{$what}), qr/tls_ca_file/, qr/^(?!XX)\w{5}$/);
	refused("a certificate file that is $what", session(tls_cert_file => $files{$what}, tls_key_file => $ours->{key_file}), qr/tls_cert_file/, qr/^(?!XX)\w{5}$/);
	refused("a key file that is $what", session(tls_cert_file => $ours->{cert_file}, tls_key_file => $files{$what}), qr/tls_key_file|tls_cert_file/, qr/^(?!XX)\w{5}$/);
}
unlike(slurp_file($node->logfile), qr/s3cret|BEGIN CERTIFICATE/, 'no secret is in the log, in all of this');

# Certificates of clients

my $verifying = secure_server('verifying', {}, tls => { ca_file => $ca, verify => 'true' });
client($verifying, tls => shown($ours))->create_stream('T', ['t.>']);

sub shown { return { SSL_cert_file => $_[0]->{cert_file}, SSL_key_file => $_[0]->{key_file} }; }
sub showing { my ($certificate) = @_; return map { ("tls_$_" => $certificate->{$_}) } keys %$certificate; }

is(session_to($verifying->tls_url, showing($ours))->value($PUBLISH), 'T', 'with a certificate');
is(session_to($verifying->url, showing($ours))->value($PUBLISH), 'T', 'also by nats://');
refused('without a certificate', session_to($verifying->tls_url), $CERTIFICATE);
refused('with one of another authority', session_to($verifying->tls_url, showing($certificates->make('foreigner', ca => 'foreign'))), $CERTIFICATE);
refused('with one that has expired', session_to($verifying->tls_url, showing($certificates->make('expired', expired => 1))), $CERTIFICATE);
my %mismatched = (cert_file => $ours->{cert_file}, key_file => $certificates->make('other')->{key_file});
refused('with the key of another', session_to($verifying->tls_url, showing(\%mismatched)), qr/key/, qr/^(?!XX)\w{5}$/);
refused('with a certificate and no key', session_to($verifying->tls_url, tls_cert_file => $ours->{cert_file}), qr/tls_key_file/, qr/^(?!XX)\w{5}$/);

my $mapping = secure_server('mapping', {}, tls => { ca_file => $ca, verify_and_map => 'true' }, config => <<'END');
authorization {
	users = [
		{ user: "app@example.com", permissions: { publish: ["t.>", "$JS.API.>"], subscribe: ["_INBOX.>"] } }
		{ user: "CN=billing,O=Example", permissions: { publish: ["b.>"], subscribe: ["_INBOX.>"] } }
	]
}
END
my $app = $certificates->make('app', names => 'email:app@example.com');
my $billing = $certificates->make('billing', subject => '/O=Example/CN=billing');
client($mapping, tls => shown($app))->create_stream('T', [ 't.>', 'b.>' ]);
$session = session_to($mapping->tls_url, showing($app));
is($session->value($PUBLISH), 'T', 'a certificate makes the user, by its e-mail address');
is($session->sqlstate(q(SELECT nats_publish('b.a', 'x'))), '42501', 'with its permissions');
$session = session_to($mapping->tls_url, showing($billing));
is($session->value(q(SELECT (nats_publish('b.a', 'x')).stream)), 'T', 'or by its name');
is($session->sqlstate($PUBLISH), '42501', 'with others');
refused('as nobody', session_to($mapping->tls_url, showing($ours)), qr/[Aa]uth/, qr/^28000$/);

# Credentials in the URL

my $users = secure_server('users', {},
	config => 'authorization { users = [ {user: "alice", password: "p@ss:w/rd"}, {user: "b%b \"q\"", password: "1"} ] }');
my $at_users = 'localhost:' . $users->port;
client($users, user => 'alice', pass => 'p@ss:w/rd')->create_stream('T', ['t.>']);
is(session_to("tls://alice:p%40ss%3Aw%2Frd\@$at_users")->value($PUBLISH), 'T', 'a user and a password');
is(session_to("tls://b%25b%20%22q%22:1\@$at_users")->value($PUBLISH), 'T', 'a user with a percent sign');
refused('a wrong password', session_to("tls://alice:wr0ng\@$at_users"), qr/[Aa]uth/, qr/^28000$/);
refused('no password', session_to("tls://$at_users"), qr/[Aa]uth/, qr/^28000$/);
my $tokens = secure_server('tokens', {}, config => 'authorization { token: "t:k@n" }');
client($tokens, token => 't:k@n')->create_stream('T', ['t.>']);
is(session_to('tls://t%3Ak%40n@localhost:' . $tokens->port)->value($PUBLISH), 'T', 'a token');
unlike(slurp_file($node->logfile), qr/wr0ng|p\@ss|p%40ss/, 'no password is in the log');

# TLS before the server says anything

IPC::Run::run([ 'gcc', '-E', '-P', '-' ], '<', \"#include <nats/version.h>\nNATS_VERSION_MAJOR NATS_VERSION_MINOR", '>', \my $version)
	or die 'no nats/version.h';
my ($major, $minor) = $version =~ /(\d+) (\d+)\s*$/ or die "no version in $version";
if ($major == 3 && $minor < 9)
{
	refused('TLS first with an old library', session(tls_handshake_first => 'on'), qr/libnats/, qr/^0A000$/);
}
else
{
	my $first = secure_server('first', {}, tls => { handshake_first => 'true' }, handshake => 0, binary => $ENV{NATS_SERVER_NEW});
	client($first, tls_first => 1)->create_stream('T', ['t.>'], storage => 'file', allow_msg_ttl => \1);
	$session = session_to($first->tls_url, tls_handshake_first => 'on');
	is($session->value($PUBLISH), 'T', 'TLS first');
	is($session->value('SELECT tls, server_name FROM nats_server_info()'), 't|first', 'the server is asked for its features so too');
	is($session->value(q(SELECT (nats_publish('t.a', 'x', ttl => '1 h')).stream)), 'T', 'which an option needs');
	$first->restart(stop => 'kill9');
	is($session->value($PUBLISH), 'T', 'TLS first with a server that was restarted');
	$certificates->make('first', names => $HERE, ca => 'foreign');
	$first->set_config('', reload => 1);
	is($session->sqlstate('SELECT nats_server_info()'), '58000', 'a certificate that is another one when the server is asked again');
	refused('TLS first where the server is first', session(tls_handshake_first => 'on', connect_timeout => '2s'), qr/\S/);
	refused('the server first where TLS is', session_to($first->tls_url, connect_timeout => '2s'), qr/\S/);
}

# A connection that stops within a record, of the server's or of our own. What is interrupted there is continued there
# when the connection goes on.

my $MUCH = q(SELECT count(nats_publish_async('t.a', repeat('x', 900000))) FROM generate_series(1, 16); COMMIT);
my @waits = (
	[ 'nats_publish()', '', $PUBLISH ],
	[ 'COMMIT', q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('t.a', 'x')), 'COMMIT' ],
	[ 'COMMIT of what it held', q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_on_commit('t.a', 'x')), 'COMMIT' ],
	[ 'COMMIT of more than the sockets hold', 'BEGIN', $MUCH ],
	[ 'nats_stream_info()', '', q(SELECT nats_stream_info('T')) ]);
my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM t');
foreach my $side ('server', 'client')
{
	foreach my $wait (@waits)
	{
		my ($name, $before, $sql) = @$wait;
		$proxy = ByteProxy->new($nats);
		$session = session_to($proxy->tls_url, ack_timeout => '10min', commit_timeout => '10min');
		$session->value($PUBLISH);
		my $stall = sub
		{
			$proxy->stall($side);
			$session->value($before) if $before;
			$session->begin($sql);
			$proxy->wait_until_stalled;
			$session->wait_until_waiting;
			return time;
		};

		foreach my $round (1, 2)
		{
			my $started = $stall->();
			if ($round == 1)
			{
				my $ticks = process_ticks($session->pid);
				sleep 0.5;
				cmp_ok(process_ticks($session->pid) - $ticks, '<=', 10, 'the backend sleeps meanwhile');
				$started = time;
			}
			kill 'INT', $session->pid;
			is($session->finish->{sqlstate}, '57014', "$name within a record of the $side: cancelled");
			cmp_ok(time - $started, '<', $BOUND, 'at once');
			$session->run('ROLLBACK');
			$proxy->resume;
			is($session->value($PUBLISH), 'T', 'and the session goes on');
		}
		is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), $name =~ /held/ ? '3|0' : '1|0',
			'on the same connection, but for a COMMIT that closes it so that nothing held arrives');

		$session->value(set(ack_timeout => '700ms', commit_timeout => '700ms'));
		my $started = $stall->();
		is($session->finish->{sqlstate}, $name =~ /info/ ? '58000' : '58030', 'it ends by itself');
		cmp_ok(time - $started, '<', $BOUND, 'in time');
		$session->run('ROLLBACK');
		$proxy->resume;
		is($session->value(set(ack_timeout => '10min', commit_timeout => '10min') . $PUBLISH), 'T', 'and the session goes on');

		$started = $stall->();
		my $pid = $session->pid;
		kill 'TERM', $pid;
		is($session->finish->{sqlstate}, '57P01', 'terminated');
		wait_for('the backend to end', sub { !process_is_there($pid) });
		cmp_ok(time - $started, '<', $BOUND, 'at once');
	}
}
is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $rows, 'none of these transactions has committed');

# One that ends within a record, or has a byte changed by somebody

$proxy = ByteProxy->new($nats);
$session = session_to($proxy->tls_url . ',' . $nats->tls_url);
$session->value($PUBLISH);
$proxy->stall('server');
$session->begin(q(BEGIN; SELECT count(nats_publish_async('t.cut', i::text)) FROM generate_series(1, 100) i; COMMIT;));
$proxy->wait_until_stalled;
$proxy->stop;
is($session->finish->{output}, '100', 'a connection that ends within a record: sent again on another');
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '2|1', 'which is known');
is(stored('t.cut'), 100, 'exactly once');

my $change = $certificates->write('change', '');
$proxy = ByteProxy->new($nats, edit => sub {
	my ($bytes) = @_;
	substr($bytes, -1) ^= "\1" if $bytes =~ /^\x17/ && unlink $change;
	return $bytes;
});
unlink $change;
$session = session_to($proxy->tls_url);
foreach my $sql ($PUBLISH, q(BEGIN; SELECT stream FROM nats_publish_async('t.changed', 'x') f, LATERAL nats_await(f); COMMIT))
{
	$session->value($PUBLISH);
	$certificates->write('change', '');
	is($session->value($sql), 'T', 'an acknowledgment that somebody has changed is not believed, and comes again');
	ok(!-e $change, 'it has come');
}
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '3|2', 'each on another connection');
is(stored('t.changed'), 1, 'the message is there once');

# A server that is strange after its INFO

my %strange_answers = (
	'says nothing' => '',
	'speaks NATS' => "PONG\r\n+OK\r\n",
	'speaks nothing known' => "\0\xff\xfe" x 10000,
	'refuses' => "\x15\x03\x03\x00\x02\x02\x28",
	'promises more than it says' => "\x16\x03\x03\x40\x00\x02");
foreach my $what (sort keys %strange_answers)
{
	foreach my $end ('hold', 'close')
	{
		my $fake = FakeServer->new(sub {
			my ($peer) = @_;
			$peer->send($peer->info_line(tls_required => 'true') . $strange_answers{$what});
			$peer->hold if $end eq 'hold';
		});
		refused("a server that wants TLS and $what ($end)", session_to("nats://alice:s3cret\@localhost:@{[$fake->port]}", connect_timeout => '500ms'), qr/localhost:\d+: \S/);
	}
}

# One that stops in the handshake

$proxy = ByteProxy->new($nats);
$session = session(connect_timeout => '60s');
$session->value($PUBLISH);
my ($threads, $files) = (1, process_files($session->pid));
ok(wait_for('threads to end', sub { process_threads($session->pid) == $threads }), 'a backend that is connected with TLS has one thread');
my $to_proxy = set(url => $proxy->tls_url);
foreach my $round (1 .. 3)
{
	$proxy->stall('handshake');
	$session->begin($to_proxy . $PUBLISH);
	$proxy->wait_until_stalled;
	$session->wait_until_waiting;
	my $started = time;
	kill 'INT', $session->pid;
	is($session->finish->{sqlstate}, '57014', 'within the handshake: cancelled');
	cmp_ok(time - $started, '<', $BOUND, 'at once');
	$proxy->resume;
}
ok(wait_for('threads to end', sub { process_threads($session->pid) <= $threads }), 'no thread is left');
ok(wait_for('sockets to be closed', sub { process_files($session->pid) <= $files }), 'no socket is left');
foreach my $at ('handshake', 'server')
{
	$session->value(set(url => $nats->tls_url, connect_timeout => '10s') . $PUBLISH);
	$proxy->stall($at);
	my $result = $session->run(set(url => $proxy->tls_url, connect_timeout => '700ms') . $PUBLISH);
	is($result->{sqlstate}, '58000', "within the first record of the $at: connect_timeout");
	cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
	$proxy->resume;
	is($session->value(set(connect_timeout => '10s') . $PUBLISH), 'T', 'and the next attempt succeeds');
}
$proxy->stall('handshake');
$session = session_to($proxy->tls_url, connect_timeout => '60s');
$session->begin($PUBLISH);
$proxy->wait_until_stalled;
{
	my $pid = $session->pid;
	kill 'TERM', $pid;
	ok(wait_for('the backend to end', sub { !process_is_there($pid) }, $BOUND), 'terminated');
}
$proxy->resume;

# A server that is killed under a transaction, and comes back

client($nats)->purge('T');
$session = session(commit_timeout => '60s', ack_timeout => '60s');
$session->begin(q(BEGIN; INSERT INTO t VALUES (1);
	SELECT count(nats_publish_async('t.big.' || i, repeat('x', 100))) FROM generate_series(1, 60000) i; COMMIT;));
wait_for('the first messages', sub { client($nats)->stream_info('T')->{state}{messages} > 5000 });
$nats->stall;    # so that some are not acknowledged
$session->wait_until_waiting;
$nats->restart(stop => 'kill9');
my $result = $session->finish;
is($result->{output} . $result->{error}, '60000', 'a crash while messages are sent');
my $state = client($nats)->stream_info('T')->{state};
is("$state->{messages} $state->{num_subjects}", '60000 60000', 'every message is in the stream exactly once');
is($session->value('SELECT connections_lost > 0, failed FROM nats_session_stats()'), 't|0', 'over two connections');
$session->close;
client($nats)->purge('T');

# A member that only the server has told of, by its address

my %told = (member => { names => 'DNS:localhost' }, stranger => { ca => 'foreign' });
foreach my $name (sort keys %told)
{
	my $member = secure_server($name, $told{$name});
	client($member)->create_stream('T', ['t.>']);
	my $known = secure_server('known', {});
	client($known)->create_stream('T', ['t.>']);
	my $told = '127.0.0.1:' . $member->port;
	$proxy = ByteProxy->new($known, edit => sub { return $_[0] =~ s/^INFO \{/INFO {"connect_urls":["$told"],/r; });
	$session = session_to($proxy->tls_url, connect_timeout => '5s');
	is($session->value("$PUBLISH; SELECT server_name FROM nats_server_info()"), "T\nknown", 'a server that tells of another');
	$proxy->stop;
	$known->stop;
	if ($name eq 'member')
	{
		is($session->value("$PUBLISH; SELECT server_name FROM nats_server_info()"), "T\nmember", 'which takes over');
	}
	else { refused('whom nobody knows', $session, $CERTIFICATE); }
}

# The end of TLS without the end of the connection

$proxy = ByteProxy->new($nats, half_open => 1);
$session = session_to($proxy->tls_url, ack_timeout => '60s');
foreach my $sql ($PUBLISH, q(BEGIN; SELECT nats_publish_async('t.a', 'x') > 0; COMMIT))
{
	$session->value($PUBLISH);
	$nats->restart;
	$result = $session->run($sql);
	like($result->{output} . $result->{error}, qr/^(T|t)$/, 'a server that says farewell to an idle session');
	cmp_ok($result->{seconds}, '<', $BOUND, 'is not waited for');
}
is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '3|2', 'it is another connection');

# A new certificate for the server

$session = session();
$session->value($PUBLISH);
$certificates->make('secure', names => $HERE);
$nats->set_config('', reload => 1);
is($session->value($PUBLISH) . session()->value($PUBLISH), 'TT', 'a new certificate');
$certificates->make('secure', names => $HERE, ca => 'foreign');
$nats->set_config('', reload => 1);
like(session()->error($PUBLISH), $CERTIFICATE, 'one of another authority is for those who connect');
is(session(tls_ca_file => $certificates->ca_file('foreign'))->value($PUBLISH), 'T', 'and know it');
$certificates->make('secure', names => $HERE);
$nats->set_config('', reload => 1);

# Nothing is left of connections, whether they came to be or not

client($nats)->create_stream('FEW', ['few.>'], max_msgs => 1000, duplicate_window => 1_000_000_000);
$session = session();
my $cycle = q(SELECT (nats_publish('few.a', 'x')).stream = 'FEW' AND nats_disconnect());
my $failing_cycle = set(tls_ca_file => $certificates->ca_file('foreign')) . q(DO $$ BEGIN PERFORM nats_publish('few.a', 'x');
	EXCEPTION WHEN others THEN ASSERT SQLSTATE = '58000'; END $$; ) . set(tls_ca_file => $ca);
my %cycles = ('connections' => $cycle, 'refused certificates' => $failing_cycle);
foreach my $what (sort keys %cycles)
{
	$session->value("$cycles{$what};\n" x 30);
	my ($files, $threads, $memory) = (process_files($session->pid), process_threads($session->pid), process_memory($session->pid));
	$session->value("$cycles{$what};\n" x 200);
	ok(wait_for('descriptors to be closed', sub { process_files($session->pid) <= $files }), "200 $what leave no descriptor");
	ok(wait_for('threads to end', sub { process_threads($session->pid) <= $threads }), 'no thread');
	my $growth = process_memory($session->pid) - $memory;
	cmp_ok($growth, '<', $FEW_MB / 4, "and no memory: $growth kB");
}
cmp_ok($session->value('SELECT connects FROM nats_session_stats()'), '>=', 230, 'they were there');

my $messages = q(SELECT count(nats_publish_async('few.a', 'x', headers => '{"A": "1"}')) FROM generate_series(1, %d));
$session->value(sprintf($messages, 100_000));
my $memory = process_memory($session->pid);
$session->value(sprintf($messages, 300_000), 170);
my $growth = process_memory($session->pid) - $memory;
cmp_ok($growth, '<', $FEW_MB, "nor have 300,000 messages: $growth kB");

# Answers that have come are read before anything is called unanswered: in many records, of which OpenSSL gives one at a time
{
	my $COUNT = 3000;
	my $certificate = $certificates->make('records', names => $HERE);
	my $fake = FakeServer->new(sub {
		my ($peer) = @_;
		my @messages;
		$peer->handshake_with_tls($certificate);
		while (my $command = $peer->next_command)
		{
			push @messages, $command if $command->{verb} eq 'PUB';
			next if @messages < $COUNT;
			$peer->reply($_, '{"stream":"T","seq":1}') foreach splice @messages;
			$peer->note('answered');
		}
	});
	my $uncritical = session_to("tls://localhost:@{[$fake->port]}", ack_timeout => '10s');
	$uncritical->value("SELECT count(nats_publish_async('t.a', 'x', critical => false)) FROM generate_series(1, $COUNT)");
	is($fake->next_event, 'answered', 'messages are answered');
	sleep 11;
	is($uncritical->error('SELECT count(*) FROM nats_futures()'), '', 'none of which is called unanswered, when somebody asks');
	is($uncritical->value('SELECT acked, failed FROM nats_session_stats()'), "$COUNT|0", 'nor counted so');
}

# TLS 1.2, whose handshake is another

$ENV{OPENSSL_CONF} = $certificates->write('old.cnf',
	"openssl_conf = all\n[all]\nssl_conf = tls\n[tls]\nsystem_default = old\n[old]\nMaxProtocol = TLSv1.2\n");
$node->restart;
$proxy = ByteProxy->new($verifying);
$session = session_to($proxy->tls_url, showing($ours));
is($session->value("$PUBLISH; SELECT tls FROM nats_server_info()"), "T\nt", 'TLS 1.2');
# a ClientKeyExchange in clear text
like($proxy->client_bytes, qr/\x16\x03\x03..\x10/s, 'is what is spoken');
is($session->value(q(SELECT count(nats_publish_async('t.a', repeat('x', i))) FROM generate_series(1, 10000) i)), '10000', 'and speaks as well');
$proxy->stall('server');
$session->begin($PUBLISH);
$proxy->wait_until_stalled;
$session->wait_until_waiting;
kill 'INT', $session->pid;
is($session->finish->{sqlstate}, '57014', 'can be cancelled');
$proxy->resume;
is($session->value($PUBLISH), 'T', 'and goes on');
# newer servers do not say what they miss
refused('TLS 1.2 without a certificate', session_to($verifying->tls_url), qr/certificate|alert handshake failure/);

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP/, 'no backend has crashed');

done_testing();
