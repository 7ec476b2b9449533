
# The doctor: each check of nats_check() in each of its statuses, and that it leaves the session as it was.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use Certificates;
use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

plan skip_all => 'NATS_SERVER_NEW does not name a newer nats-server' unless $ENV{NATS_SERVER_NEW};

my @GENERAL = qw(connection server jetstream round_trip permissions);
my @OF_SUBJECT = qw(subject stream storage replicas retention no_ack discard duplicate_window persist_mode features limits);
my @LOCAL = qw(relay wal changes settings);

# A silent server costs two timeouts, on a loaded machine.
my $BOUND = 30;

# The rows of nats_check() by name: status and detail. And their names in order.
my @names;
sub look
{
	my ($session, $arguments) = @_;
	my @rows = map { [ split /\|/, $_, 3 ] } split /\n/, $session->value("SELECT check_name, status, detail FROM nats_check($arguments)");
	@names = map { $_->[0] } @rows;
	return { map { $_->[0] => { status => $_->[1], detail => $_->[2] } } @rows };
}

# The same, and what holds of all of them
sub doctor
{
	my ($session, $arguments) = @_;
	my $rows = look($session, $arguments);
	my @bad = grep { $rows->{$_}{status} !~ /^(ok|warning|failed|unknown)$/ || $rows->{$_}{detail} !~ /^[A-Z0-9"a-z].*\.$/ } @names;
	is_deeply(\@bad, [], "nats_check($arguments): all rows have a status and say something");
	unlike(join(' ', map { $rows->{$_}{detail} } @names), qr/secret/i, 'and no secret');
	return $rows;
}

# Until a row says that
sub look_until
{
	my ($session, $arguments, $name, $detail) = @_;
	return wait_for("$name to be like $detail",
		sub
		{
			my $rows = look($session, $arguments);
			return $rows->{$name}{detail} =~ $detail && $rows;
		});
}

# One row of them; its status is a word or a pattern
sub finds
{
	my ($rows, $name, $status, $detail, $what) = @_;
	my $row = $rows->{$name} // { status => 'missing', detail => '' };
	like($row->{status}, ref $status ? $status : qr/^$status$/, "$what: $name") or diag $row->{detail};
	like($row->{detail}, $detail, 'says why');
	return;
}

# No other rows are warning or failed but these. That the machine is slow is not what we test.
my $MAYBE_SLOW = qr/^(ok|warning)$/;
sub complains_only_of
{
	my ($rows, $what, @expected) = @_;
	my @complaints = grep { $rows->{$_}{status} =~ /warning|failed/ && $rows->{$_}{detail} !~ /move the server closer/ } sort keys %$rows;
	is_deeply(\@complaints, [ sort @expected ], "$what: nothing else is complained of")
		or diag join "\n", map { "$_: $rows->{$_}{detail}" } @complaints;
	return;
}

# Those that the server could not be asked for
sub unknown_are
{
	my ($rows, $what, @expected) = @_;
	is_deeply([ grep { $rows->{$_}{status} eq 'unknown' } @names ], \@expected, "$what: unknown are") or diag explain $rows;
	return;
}

my $USERS = <<'END';
authorization {
  users = [
    { user: admin, password: admin }
    { user: noapi, password: secret, permissions: { publish: ["t.>"], subscribe: ["_INBOX.>"] } }
    { user: nojs, password: secret, permissions: { publish: { deny: ["$JS.API.CONSUMER.>", "$JS.API.INFO"] } } }
    { user: asks, password: secret, permissions: { publish: { allow: ["t.>", "$SYS.REQ.USER.INFO", "$JS.API.>"], deny: ["t.denied.*"] } } }
    { user: enough, password: secret, permissions: { publish: ["t.>", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*",
      "$JS.API.CONSUMER.LIST.*", "$SYS.REQ.USER.INFO"], subscribe: ["_INBOX.>"] } }
    { user: noinbox, password: secret, permissions: { subscribe: ["_OTHER.>"] } }
  ]
}
END
my $nats = NatsServer->new(name => 'old', jetstream => 1, config => $USERS)->start;
my $new = NatsServer->new(name => 'new', jetstream => 1, config => $USERS, binary => $ENV{NATS_SERVER_NEW})->start;
my %client = map { $_->{name} => NatsClient->new(url => $_->url, user => 'admin', pass => 'admin') } $nats, $new;
my $client = $client{old};
my ($minor) = $client->info->{version} =~ /^2\.(\d+)\./;
my $TRACES = $minor >= 11;

sub url { my ($server, $user, $password) = @_; return "nats://$user:" . ($password // ($user eq 'admin' ? 'admin' : 'secret')) . '@127.0.0.1:' . $server->port; }

my $node = publishing_node('main',
	'nats_publish.url' => url($nats, 'admin'),
	fsync => 'on',
	log_min_error_statement => 'panic');

sub session
{
	my (%settings) = @_;
	return PsqlSession->new($node, settings => { map { (/\./ || $_ eq 'synchronous_commit' ? $_ : "nats_publish.$_") => $settings{$_} } keys %settings });
}

sub doctor_at { my ($url, $arguments, %settings) = @_; return doctor(session(url => $url, %settings), $arguments // ''); }

# ---- All is well

$client{$_}->create_stream('T', ['t.>'], storage => 'file') foreach qw(old new);
{
	my $rows = doctor(session(), '');
	is_deeply(\@names, [ @GENERAL, @LOCAL ], 'the rows without a subject');
	complains_only_of($rows, 'a healthy server');
	finds($rows, 'connection', 'ok', qr{^nats://127\.0\.0\.1:\d+, without TLS, logged in with user and password of the URL\.$}, 'a healthy server');
	finds($rows, 'server', 'ok', qr/^nats-server \Q$client->{info}{version}\E, "old"; libnats 3\.\d+\.\d+\./, 'a healthy server');
	finds($rows, 'jetstream', 'ok', qr/with 1 stream\.$/, 'a healthy server');
	finds($rows, 'round_trip', $MAYBE_SLOW, qr/^The median of 5 PINGs is \d+\.\d\d ms, the longest took \d+\.\d\d ms\./, 'a healthy server');
	finds($rows, 'relay', 'ok', qr/needs none.*nats_outbox is empty/, 'a healthy server');
	finds($rows, 'settings', 'ok', qr/Nothing contradicts.*not in shared_preload_libraries/, 'a healthy server');

	$rows = doctor_at(url($new, 'admin'), q('t.a'));
	is_deeply(\@names, [ @GENERAL, @OF_SUBJECT, @LOCAL ], 'the rows with a subject');
	complains_only_of($rows, 'a healthy stream');
	unknown_are($rows, 'a healthy stream');
	finds($rows, 'server', 'ok', qr/API level \d+: ttl and atomic commits/, 'a newer server');
	finds($rows, 'round_trip', $MAYBE_SLOW, qr/clock agrees/, 'a newer server');
	finds($rows, 'permissions', 'ok', qr/may publish to "t\.a"/, 'a newer server');
	finds($rows, 'stream', 'ok', qr/^"T" takes the subject\.$/, 'a healthy stream');
	finds($rows, 'storage', 'ok', qr/files/, 'a healthy stream');
	finds($rows, 'replicas', 'ok', qr/^1 replica on a server without a cluster/, 'a healthy stream');
	finds($rows, 'retention', 'ok', qr/^limits/, 'a healthy stream');
	finds($rows, 'no_ack', 'ok', qr/acknowledges/, 'a healthy stream');
	finds($rows, 'discard', 'ok', qr/^old, without a limit/, 'a healthy stream');
	finds($rows, 'duplicate_window', 'ok', qr/^120\.0 s; a message can be sent again for 40\.0 s\.$/, 'a healthy stream');
	finds($rows, 'persist_mode', 'ok', qr/^default/, 'a healthy stream');
	finds($rows, 'limits', 'ok', qr/Neither/, 'a healthy stream');

	$rows = doctor_at(url($new, 'admin'), q('t.a', probe => true));
	complains_only_of($rows, 'with a probe');
	finds($rows, 'stream', 'ok', qr/^"T" takes the subject\. "T" takes the probe\.$/, 'with a probe');
	is($client{new}->stream_info('T')->{state}{messages}, 0, 'which is not stored');
}

# ---- connection

sub no_connection
{
	my ($what, $detail, %settings) = @_;
	my $session = session(%settings);
	my $start = time;
	my $rows = doctor($session, q('t.a', probe => true));
	cmp_ok(time - $start, '<', $BOUND, "$what: in bounded time");
	finds($rows, 'connection', 'failed', $detail, $what);
	unknown_are($rows, $what, @GENERAL[ 1 .. 4 ], grep { $_ ne 'subject' } @OF_SUBJECT);
	finds($rows, 'subject', 'ok', qr/valid/, $what);
	finds($rows, 'limits', 'unknown', qr/no connection/, $what);
	return;
}

my $certificates = Certificates->new;
my $secure = NatsServer->new(name => 'secure', jetstream => 1, tls => $certificates->make('secure', names => 'DNS:localhost,IP:127.0.0.1'))->start;
my $closed = free_port();
my $DNS = qr{nats://nowhere\.invalid:4222 \(dns\): could not resolve the host name: };
my $TCP = qr{nats://127\.0\.0\.1:$closed \(tcp\): could not connect: Connection refused\.};

no_connection('an unknown host', qr/^$DNS.*name resolution/, url => 'nats://nowhere.invalid:4222');
no_connection('nobody there', qr/^$TCP Check that nats-server runs/, url => "nats://a:secret\@127.0.0.1:$closed");
no_connection('a list of URLs', qr/^$DNS.* $TCP Correct the host.* Check that nats-server runs/, url => "nats://nowhere.invalid,nats://127.0.0.1:$closed");
no_connection('a wrong password', qr{^nats://127\.0\.0\.1:\d+ \(authentication\): .*Correct the credentials}, url => url($nats, 'noapi', 'mysecret'));
no_connection('an unknown authority', qr{^tls://localhost:\d+ \(tls\): .*tls_ca_file}, url => $secure->tls_url, tls_ca_file => $certificates->ca_file('foreign'));
no_connection('TLS of a server without', qr{^tls://127\.0\.0\.1:\d+ \(tls\): }, url => url($nats, 'admin') =~ s/^nats/tls/r, tls_ca_file => $certificates->ca_file);
no_connection('no right to the inbox', qr{\(inbox\): may not subscribe.*inbox_prefix}, url => url($nats, 'noinbox'));
no_connection('a file that is not there', qr{\(authentication\): could not open creds_file: No such file.*Check that the server process can read}, url => $nats->url, creds_file => '/nowhere/secret');
no_connection('no such foreign server', qr/^Server "none" does not exist\. Set nats_publish\.server/, server => 'none');
{
	my $fake = FakeServer->new(sub { $_[0]->send("HTTP/1.1 400 Bad Request\r\n\r\n"); return $_[0]->hold; });
	no_connection('not NATS', qr/\((nats|tcp)\): /, url => $fake->url, connect_timeout => '300ms');
	$fake = FakeServer->new(sub { return $_[0]->hold; });
	no_connection('silence', qr/\(tcp\): .*firewall/, url => $fake->url, connect_timeout => '300ms');
}
complains_only_of(doctor_at($secure->tls_url, '', tls_ca_file => $certificates->ca_file), 'TLS');
finds(doctor_at($secure->tls_url, '', tls_ca_file => $certificates->ca_file), 'connection', 'ok', qr/, with TLS, logged in with no credentials\.$/, 'TLS');

# A server that stops to answer
{
	my $session = session(ack_timeout => '5s', connect_timeout => '1s');
	$session->value(q(SELECT nats_publish('t.a', 'x'); SET nats_publish.ack_timeout = '300ms'));
	$nats->stall;
	my $rows = doctor($session, q('t.a'));
	# with no time left for another attempt it is the first one that is told
	finds($rows, 'connection', 'failed', qr/no answer in time|server does not answer/, 'a stalled server');
	unknown_are($rows, 'a stalled server', @GENERAL[ 1 .. 4 ], grep { $_ ne 'subject' } @OF_SUBJECT);
	$session->value(q(SET nats_publish.ack_timeout = '60s'));
	$session->begin(q(SELECT * FROM nats_check('t.a', true)));
	$session->wait_until_waiting;
	kill 'INT', $session->pid;
	is($session->finish->{sqlstate}, '57014', 'a cancel ends it');
	$nats->resume;
	$session->value(q(SET nats_publish.ack_timeout = '5s'));
	complains_only_of(doctor($session, q('t.a')), 'when it answers again');
}

# A foreign server
{
	$node->safe_psql('postgres', "CREATE SERVER other FOREIGN DATA WRAPPER nats OPTIONS (url 'nats://127.0.0.1:" . $new->port . "', inbox_prefix '_OTHER');
		CREATE USER MAPPING FOR PUBLIC SERVER other OPTIONS (\"user\" 'noinbox', password 'secret')");
	my $rows = doctor(session(server => 'other'), q('t.a', true));
	complains_only_of($rows, 'a foreign server');
	finds($rows, 'server', 'ok', qr/"new"/, 'a foreign server');
	is(session(server => 'other')->sqlstate(q(SELECT nats_explain('_OTHER.a', 'x'))), '22023', 'its inbox, to nats_explain()');
	finds(doctor(session(server => 'other'), q('_OTHER.a')), 'subject', 'failed', qr/reserved.*"_OTHER"/, 'its inbox');
}

# ---- server, jetstream, round_trip

# A server of our own: what it answers to which subject ('' for silence), and fields of its INFO.
sub fake
{
	my ($answers, %info) = @_;
	return FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			my $answer = $answers->{ $command->{subject} };
			$answer = $answer->($peer, $command) if ref $answer;
			if (!defined $answer) { $peer->reply($command, '', ' 503'); }
			elsif ($answer ne '') { $peer->reply($command, $answer); }
			return;
		},
		%info);
}

{
	my $rows = doctor_at(fake({}, version => '"2.8.4"')->url);
	finds($rows, 'server', 'failed', qr/nats-server 2\.8\.4, "fake".*use nats-server 2\.9/, 'an old server');
	finds($rows, 'jetstream', 'unknown', qr/does not answer/, 'which does not answer JetStream');
	finds(doctor_at(fake({}, version => '"2.11.1"', cluster => '"C"')->url), 'server', 'ok', qr/of the cluster "C".*ttl can be used; atomic commits need/, '2.11');
	my $shy = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->close if $number > 1;
			$peer->handshake;
			while (my $command = $peer->next_command) { $peer->reply($command, '', ' 503') if $command->{verb} eq 'PUB'; }
			return;
		});
	finds(doctor_at($shy->url), 'server', 'unknown', qr/could not ask/i, 'a server that does not tell its features');
}
{
	my $plain = NatsServer->new(name => 'plain')->start;
	my $what = qr/^The server does not have JetStream\. Switch JetStream on: put jetstream \{ store_dir:/;
	finds(doctor_at($plain->url), 'jetstream', 'unknown', qr/$what.*nats_check\(subject, probe => true\) tells/, 'no JetStream');
	my $rows = doctor_at($plain->url, q('t.a', true));
	finds($rows, 'jetstream', 'failed', qr/$what.*nats-server -js\.$/, 'no JetStream, with a probe');
	finds($rows, 'stream', 'failed', qr/Nobody takes the probe\. Switch JetStream on/, 'no JetStream, with a probe');
	my $accounts = NatsServer->new(name => 'accounts', jetstream => 1, config => <<'END')->start;
accounts {
  JS: { jetstream: { max_file: 1000, max_mem: 1000000 }, users: [ { user: admin, password: admin } ] }
  NONE: { users: [ { user: none, password: secret } ] }
}
END
	finds(doctor_at(url($accounts, 'none')), 'jetstream', 'unknown', qr/^The server has JetStream, the account does not: .*for the account/, 'an account without');
	finds(doctor_at(url($accounts, 'none'), q('t.a', true)), 'jetstream', 'failed', qr/^The server has JetStream, the account does not/, 'an account without, with a probe');
	my $account = NatsClient->new(url => $accounts->url, user => 'admin', pass => 'admin');
	$account->create_stream('A', ['a.>'], storage => 'file');
	my $at = url($accounts, 'admin');
	finds(doctor_at($at, q('a.a')), 'limits', 'ok', qr/^Storage of the account: 0 of 1000\.$/, 'account limits');
	$account->js_publish('a.a', 'x' x 830);
	finds(doctor_at($at, q('a.a')), 'limits', 'warning', qr/^Storage of the account: 8\d\d of 1000, 8\d %\. Raise/, 'account limits, nearly reached');
}
finds(doctor_at(url($nats, 'noapi')), 'jetstream', 'unknown', qr/no right to publish to \$JS\.API\.INFO/, 'no right to the API');
finds(doctor_at(fake({ '$JS.API.INFO' => '' })->url, '', ack_timeout => '2s'), 'jetstream', 'unknown', qr/no answer within 2000 ms/, 'JetStream is silent');
{
	my $slow = FakeServer->new(
		sub
		{
			my ($peer) = @_;
			$peer->{mute} = 1;
			$peer->handshake;
			$peer->send("PONG\r\n");
			while (my $command = $peer->next_command)
			{
				sleep 0.03;
				$peer->send("PONG\r\n") if $command->{verb} eq 'PING';
				$peer->reply($command, '', ' 503') if $command->{verb} eq 'PUB';
			}
			return;
		});
	my $rows = doctor_at($slow->url);
	finds($rows, 'round_trip', 'warning', qr/median of 5 PINGs is \d\d+\.\d\d ms.*closer.*does not report its time/, 'a slow network');
	my $info = sub { my ($time) = @_; return { '$SYS.REQ.USER.INFO' => qq({"server":{"time":"$time"},"data":{"user":"a"}}) }; };
	finds(doctor_at(fake($info->('2020-01-01T00:00:00.123456789Z'))->url), 'round_trip', 'warning', qr/clock is \d+\.\d s behind ours.*Synchronize/, 'a clock that is slow');
	finds(doctor_at(fake($info->('2120-01-01T00:00:00Z'))->url), 'round_trip', 'warning', qr/clock is \d+\.\d s ahead of ours/, 'a clock that is fast');
	finds(doctor_at(fake($info->($_))->url), 'round_trip', $MAYBE_SLOW, qr/does not report its time/, "a clock that says '$_'") foreach 'noon', 'infinity', '';
}

# ---- permissions

{
	my $rows = doctor_at(url($new, 'asks'), q('t.a'));
	complains_only_of($rows, 'a user that may publish');
	finds($rows, 'permissions', 'ok', qr/inbox\. It may use the JetStream API\. The NATS user may publish to "t\.a"/, 'a user that may publish');
	finds(doctor_at(url($new, 'asks'), q('t.denied.a')), 'permissions', 'failed', qr/may not publish to "t\.denied\.a"\. Allow it/, 'denied');
	finds(doctor_at(url($new, 'asks'), q('u.a')), 'permissions', 'failed', qr/may not publish to "u\.a"/, 'not allowed');
	finds(doctor_at(url($new, 'noapi'), q('t.a')), 'permissions', 'unknown', qr/may not use all of the JetStream API.*not known: it may not ask/, 'a user that may not ask');
	finds(doctor_at(url($new, 'nojs'), q('t.a')), 'permissions', 'ok', qr/may not use all of the JetStream API.*may publish/, 'with a part of the API');
	$client{new}->create_stream('INTEREST', ['t5.>'], storage => 'file', retention => 'interest');
	consumer(undef)->($client{new}, 'INTEREST');
	$rows = doctor_at(url($new, 'enough'), q('t5.a'));
	unknown_are($rows, 'the rights that the README names');
	complains_only_of($rows, 'the rights that the README names', 'permissions');
	unknown_are(doctor_at(url($new, 'enough'), q('t.a', true)), 'the same, with a probe');
	finds(doctor_at(url($nats, 'nojs'), q('t.a')), 'permissions', 'unknown', qr/servers tell it since 2\.10/, 'an older server') if $minor < 10;

	# a user without any right but to publish: nothing is wrong, and much is unknown
	$rows = doctor_at(url($nats, 'noapi'), q('t.a'));
	complains_only_of($rows, 'no right to the API');
	unknown_are($rows, 'no right to the API', 'jetstream', 'permissions', grep { $_ ne 'subject' } @OF_SUBJECT);
	finds($rows, 'stream', 'unknown', qr/could not be asked for the stream: the NATS user may not/, 'no right to the API');
	finds(doctor_at(url($nats, 'noapi'), q('t.a', true)), 'stream', 'unknown', qr/"T" takes the probe/, 'but the probe knows');
	my $session = session(url => url($nats, 'noapi'));
	finds(doctor($session, q('u.a', true)), 'stream', 'failed', qr/The probe failed: the NATS user may not publish/, 'that of another subject, too');
	is($session->value('SELECT published, failed FROM nats_session_stats()'), '0|0', 'and is not counted as a message');
	finds(doctor_at(url($new, 'nojs'), q('t.a')), 'limits', 'unknown', qr/limits of the account are not known/, 'no right to the account');
}

# ---- subject

{
	my $session = session();
	finds(doctor($session, q('t.*', true)), 'subject', 'failed', qr/^Subject has a wildcard at position 3\. Publish to another one\.$/, 'a wildcard');
	finds(doctor($session, q('')), 'subject', 'failed', qr/empty/, 'an empty subject');
	finds(doctor($session, q('$JS.API.INFO', true)), 'subject', 'failed', qr/reserved/, 'a reserved subject');
	$session->value(q(SET nats_publish.allowed_subjects = 'u.>'));
	my $rows = doctor($session, q('t.a', true));
	finds($rows, 'subject', 'failed', qr/permission denied for subject "t\.a".*allowed_subjects/i, 'a subject that is not allowed');
	unlike($rows->{stream}{detail}, qr/probe/, 'is not probed');
	unknown_are($rows, 'a subject that is not allowed', 'permissions', grep { $_ ne 'subject' } @OF_SUBJECT);
}

# ---- stream

{
	my $session = session();
	my $rows = doctor($session, q('nothing.takes.this'));
	complains_only_of($rows, 'no stream', $TRACES ? 'stream' : ());
	finds($rows, 'stream', 'unknown', qr/^The account has no stream that takes the subject\. Create one with nats_create_stream\(\), unless .* probe => true/, 'no stream') unless $TRACES;
	finds($rows, 'stream', 'failed', qr/^No stream takes the subject\. Create a stream with nats_create_stream\(\)\.$/, 'no stream') if $TRACES;
	finds($rows, 'storage', 'unknown', qr/no stream/, 'no stream');
	finds(doctor($session, q('nothing.takes.this', true)), 'stream', 'failed', qr/Nobody takes the probe/, 'no stream, with a probe');

	$client->create_stream('SEALED', ['sealed.>'], storage => 'file');
	$client->js('STREAM.UPDATE.SEALED', { name => 'SEALED', subjects => ['sealed.>'], storage => 'file', sealed => \1 });
	finds(doctor($session, q('sealed.a')), 'stream', 'failed', qr/"SEALED" takes the subject\. It is sealed/, 'a sealed stream');
	finds(doctor($session, q('sealed.a', true)), 'stream', 'failed', qr/refuses the probe: invalid operation on sealed stream/, 'a sealed stream, with a probe');

	# two answer
	my $answering = NatsClient->new(url => $nats->url, user => 'admin', pass => 'admin');
	my $answers = fork() // die "fork: $!";
	if ($answers == 0)
	{
		$answering->subscribe('t.strange');
		while (my $message = $answering->next_message(600)) { $answering->publish($message->{reply}, 'thank you') if $message->{reply}; $answering->flush; }
		POSIX::_exit(0);
	}
	my ($status, $who) = $TRACES ? ('ok', qr/It would also go to 1 subscriber, whose answers/) : ('warning', qr/Something other than JetStream answers on the subject/);
	$rows = eval { look_until($session, q('t.strange', true), 'stream', $who) } // {};
	kill 'KILL', $answers;
	waitpid($answers, 0);
	finds($rows, 'stream', $status, qr/"T" takes the probe\. $who/, 'somebody else answers');
	finds(doctor($session, q('t.strange')), 'stream', 'ok', qr/"T"/, 'without a probe it is not known');
}

# Two domains, connected as leaf nodes are, each with a stream for the subject
{
	my $leaf_port = free_port();
	my $hub = NatsServer->new(name => 'hub', config => qq(jetstream { domain: hub, store_dir: "@{[ PostgreSQL::Test::Utils::tempdir('hub') ]}" }
leafnodes { listen: "127.0.0.1:$leaf_port" }))->start;
	my $leaf = NatsServer->new(name => 'leaf', config => qq(jetstream { domain: leaf, store_dir: "@{[ PostgreSQL::Test::Utils::tempdir('leaf') ]}" }
leafnodes { remotes: [ { url: "nats://127.0.0.1:$leaf_port" } ] }))->start;
	NatsClient->new(url => $hub->url)->create_stream('HUB', ['two.>'], storage => 'file');
	NatsClient->new(url => $leaf->url)->create_stream('LEAF', ['two.>'], storage => 'file');
	my $session = session(url => $leaf->url);
	my $rows = look_until($session, q('two.a', true), 'stream', qr/2 streams/);
	finds($rows, 'stream', 'warning', qr/2 streams take the probe: ("HUB", "LEAF"|"LEAF", "HUB")\. Two streams or two domains/, 'two domains');
	finds($rows, 'jetstream', 'ok', qr/in the domain "leaf"/, 'two domains');
	complains_only_of($rows, 'two domains', 'stream');
	is($session->value("SELECT stream FROM nats_publish('two.a', 'x', expect_stream => '$_')"), $_, 'publishing with expect_stream works') foreach 'HUB', 'LEAF';
}

# A cluster, whose servers go one after the other
{
	my @ports = map { free_port() } 1 .. 3;
	my $routes = join ', ', map { qq("nats://127.0.0.1:$_") } @ports;
	my @members = map { NatsServer->new(name => "member$_", jetstream => 1, binary => $ENV{NATS_SERVER_NEW},
		config => qq(cluster { name: C, listen: "127.0.0.1:$ports[$_]", routes: [ $routes ] })) } 0 .. 2;
	$_->start foreach @members;
	my $session = session(url => $members[0]->url, ack_timeout => '3s');
	wait_for('the cluster', sub { $session->run(q(SELECT nats_create_stream('R3', '{r3.>}', '{"num_replicas": 3}'), nats_create_stream('R1', '{r1.>}')))->{error} eq '' });
	my $rows = look_until($session, q('r3.a', true), 'replicas', qr/^3 replicas\.$/);
	complains_only_of($rows, 'a cluster');
	finds($rows, 'server', 'ok', qr/of the cluster "C"/, 'a cluster');
	finds(doctor($session, q('r1.a')), 'replicas', 'warning', qr/^1 replica in a cluster.*Give it 3/, 'one replica in a cluster');
	$members[2]->stop;
	$rows = look_until($session, q('r3.a'), 'replicas', qr/^3 replicas\. The replica on "member2" is (offline|not current)/);
	finds($rows, 'replicas', 'warning', qr/member2/, 'an offline replica');
	$members[1]->stop;
	$rows = look_until($session, q('r3.a'), 'stream', qr/could not be looked at|no leader|could not be asked/);
	# a member that has just lost the others may still take the subject for taken
	like($rows->{stream}{status}, $rows->{stream}{detail} =~ /has no leader/ ? qr/failed|warning/ : qr/failed|unknown/, 'a stream without leader') or diag $rows->{stream}{detail};
}

# What needs another server than ours
sub api
{
	my (%stream) = @_;
	my $config = $stream{config} // '';
	my $cluster = $stream{cluster} // '';
	my $names = $stream{names} // '"S"';
	return {
		'$JS.API.INFO' => '{"streams":1,"storage":0,"limits":{"max_storage":-1}' . ($stream{account} // '') . '}',
		'$JS.API.STREAM.NAMES' => qq({"total":1,"streams":[$names]}),
		'$JS.API.STREAM.INFO.S' => $stream{info} // qq({"config":{"name":"S","storage":"file","retention":"limits","discard":"old","num_replicas":1,
			"duplicate_window":120000000000$config},"state":{"messages":1,"bytes":1,"consumer_count":0}$cluster}) };
}
sub of_fake { my ($stream, %info) = @_; return doctor_at(fake(api(%$stream), %info)->url, q('s.a'), ack_timeout => '3s'); }

{
	my $refuses = sub { my ($name) = @_; return qq({"error":{"code":400,"err_code":10060,"description":"expected stream does not match"},"stream":"$name","seq":0}); };
	my $fake = fake({ %{ api() }, 's.a' => sub { my ($peer, $command) = @_; $peer->reply($command, $refuses->('S')); sleep 0.2; return $refuses->('S2'); } });
	finds(doctor_at($fake->url, q('s.a', true)), 'stream', 'warning', qr/2 streams take the probe: "S", "S2"/, 'one that answers later');
}
finds(of_fake({ names => '"S", "S2"' }), 'stream', 'warning', qr/Several streams take the subject: "S", "S2"/, 'several streams');
finds(of_fake({ config => ',"mirror":{"name":"O"}' }), 'stream', 'failed', qr/It is a mirror/, 'a mirror');
finds(of_fake({ cluster => ',"cluster":{"name":"C","replicas":[]}' }), 'stream', 'failed', qr/It has no leader/, 'a stream without leader');
{
	my $rows = of_fake({ info => '{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}' });
	finds($rows, 'stream', 'failed', qr/"S" could not be looked at: JetStream system temporarily unavailable/, 'a stream that is not available');
	finds($rows, 'storage', 'unknown', qr/could not be looked at/, 'a stream that is not available');
	$rows = of_fake({ info => '' });
	finds($rows, 'stream', 'unknown', qr/"S" could not be looked at: no answer within 3000 ms/, 'a stream that does not answer');
	$rows = of_fake({ info => $_ }) and finds($rows, 'stream', 'unknown', qr/could not be looked at|says nothing/, "a reply '$_'") foreach '{}', '[]', 'x', '{"config":1}', '{"config":[],"state":null}';
}
finds(of_fake({ cluster => ',"cluster":{"name":"C","leader":"n1"}' }), 'replicas', 'warning', qr/^1 replica in a cluster.*Give it 3/, 'one replica in a cluster');
{
	my $replicas = ',"cluster":{"name":"C","leader":"n1","replicas":[{"name":"n2","current":%s,"offline":%s},{"name":"n3","current":true}]}';
	my $three = ',"num_replicas":3';
	finds(of_fake({ config => $three, cluster => sprintf($replicas, 'true', 'false') }, cluster => '"C"'), 'replicas', 'ok', qr/^3 replicas\.$/, 'three replicas');
	finds(of_fake({ config => $three, cluster => sprintf($replicas, 'false', 'true') }, cluster => '"C"'), 'replicas', 'warning', qr/"n2" is offline/, 'one of them offline');
	finds(of_fake({ config => $three, cluster => sprintf($replicas, 'false', 'false') }, cluster => '"C"'), 'replicas', 'warning', qr/"n2" is not current/, 'one of them behind');
}
finds(of_fake({ account => ',"tiers":{"R1":{"storage":90,"limits":{"max_storage":100}}}' }), 'limits', 'warning', qr/Storage of the account: 90 of 100/, 'limits of a tier');
finds(of_fake({ account => ',"tiers":{"R3":{"storage":90,"limits":{"max_storage":100}}}' }), 'limits', 'ok', qr/Neither/, 'limits of another tier');

# ---- storage, retention, no_ack, discard, duplicate_window, persist_mode, limits

# The rows of a stream of this configuration, and what is complained of.
my $streams = 0;
sub of_stream
{
	my ($what, $complaints, %config) = @_;
	my $name = 'S' . ++$streams;
	my $server = delete $config{server} // $nats;
	my $before = delete $config{before};
	my $arguments = delete $config{arguments} // '';
	my $settings = delete $config{settings} // {};
	$client{ $server->{name} }->create_stream($name, ["s$streams.>"], storage => 'file', %config);
	$before->($client{ $server->{name} }, $name, "s$streams.a") if $before;
	my $rows = doctor_at(url($server, 'admin'), "'s$streams.a'$arguments", %$settings);
	complains_only_of($rows, $what, @$complaints);
	return $rows;
}

finds(of_stream('in memory', ['storage'], storage => 'memory'), 'storage', 'warning', qr/in memory.*storage file/, 'in memory');

finds(of_stream('interest, nobody', ['retention'], retention => 'interest'), 'retention', 'warning',
	qr/^interest, with 0 consumers, none of which takes the subject: messages are acknowledged and not stored/, 'interest, nobody');
sub consumer
{
	my (@filters) = @_;
	return sub
	{
		my ($at, $name, $subject) = @_;
		foreach my $i (0 .. $#filters)
		{
			my %filter = ref $filters[$i] ? (filter_subjects => $filters[$i]) : defined $filters[$i] ? (filter_subject => $filters[$i]) : ();
			s/^s\b/$name =~ s{S}{s}r/e foreach ref $filter{filter_subjects} ? @{ $filter{filter_subjects} } : $filter{filter_subject} // ();
			my $consumer = sprintf 'C%03d', $i;    # they are listed by their names
			$at->js("CONSUMER.DURABLE.CREATE.$name.$consumer", { stream_name => $name, config => { durable_name => $consumer, ack_policy => 'explicit', %filter } });
		}
	};
}
finds(of_stream('interest, of others', ['retention'], retention => 'interest', before => consumer('s.b', 's.a.*')), 'retention', 'warning', qr/with 2 consumers, none/, 'interest, of others');
finds(of_stream('interest, of all', [], retention => 'interest', before => consumer('s.b', undef)), 'retention', 'ok', qr/^interest: messages are kept/, 'interest, of all');
finds(of_stream('interest, by a filter', [], retention => 'interest', before => consumer('s.b', 's.*')), 'retention', 'ok', qr/^interest: messages are kept/, 'interest, by a filter');
finds(of_stream('interest, by filters', [], server => $new, retention => 'interest', before => consumer([ 's.c', 's.a' ])), 'retention', 'ok', qr/^interest: messages are kept/, 'interest, by filters');
finds(of_stream('interest, by other filters', ['retention'], server => $new, retention => 'interest', before => consumer([ 's.c', 's.b' ])), 'retention', 'warning', qr/none/, 'interest, by other filters');
finds(of_stream('interest, many', [], retention => 'interest', before => consumer((map { "s.b$_" } 1 .. 260), 's.a')), 'retention', 'ok', qr/^interest: messages are kept/, 'interest, of the last of many');
{
	$client{new}->create_stream('UNASKED', ['t0.>'], storage => 'file', retention => 'interest');
	consumer(undef)->($client{new}, 'UNASKED');
	finds(doctor_at(url($new, 'nojs'), q('t0.a')), 'retention', 'unknown', qr/whether one does is not known: the NATS user may not/, 'interest, no right to ask');
}
finds(of_stream('a work queue', [], retention => 'workqueue'), 'retention', 'ok', qr/^workqueue/, 'a work queue');

finds(of_stream('no_ack', ['no_ack'], no_ack => \1), 'no_ack', 'failed', qr/acknowledges nothing.*no_ack to false/, 'no_ack');
{
	# a trace ends at the stream, which it can't see answer
	my $rows = of_stream('no_ack, with a probe', [ 'no_ack', $TRACES ? () : 'stream' ], no_ack => \1, arguments => ', true', settings => { ack_timeout => '2s' });
	finds($rows, 'stream', 'failed', qr/No stream answers the probe within 2000 ms/, 'no_ack, with a probe') unless $TRACES;
	finds($rows, 'stream', 'ok', qr/ takes the probe\.$/, 'no_ack, with a trace') if $TRACES;
}

finds(of_stream('old with a limit', [], max_msgs => 10), 'discard', 'ok', qr/^old: the oldest messages/, 'old with a limit');
finds(of_stream('old with an age', [], max_age => 3600 * 1e9), 'discard', 'ok', qr/^old: the oldest messages/, 'old with an age');
finds(of_stream('new with a limit', [], discard => 'new', max_msgs => 10), 'discard', 'ok', qr/53400\.$/, 'new with a limit');
finds(of_stream('new with a limit of subjects', [], discard => 'new', max_msgs_per_subject => 10), 'discard', 'ok', qr/53400\. The oldest messages of a subject.*max_msgs_per_subject\.$/,
	'new with a limit at which the oldest are dropped');
finds(of_stream('new with one of subjects', [], discard => 'new', max_msgs_per_subject => 10, discard_new_per_subject => JSON::PP::true), 'discard', 'ok',
	qr/53400\.$/, 'new with a limit of subjects at which messages are refused');
finds(of_stream('new with an age', [], discard => 'new', max_age => 3600 * 1e9), 'discard', 'ok', qr/53400.*max_age/, 'new with an age');

my $SECOND = 1e9;
finds(of_stream('a short window', ['duplicate_window'], duplicate_window => 39 * $SECOND), 'duplicate_window', 'warning', qr/^39\.0 s, but a message can be sent again for 40\.0 s\. Make/, 'a short window');
finds(of_stream('long enough', [], duplicate_window => 40 * $SECOND), 'duplicate_window', 'ok', qr/^40\.0 s;/, 'long enough');
finds(of_stream('longer timeouts', ['duplicate_window'], settings => { commit_timeout => '200s' }), 'duplicate_window', 'warning', qr/again for 230\.0 s/, 'longer timeouts');
finds(of_fake({ config => ',"duplicate_window":0' }), 'duplicate_window', 'warning', qr/does not look for duplicates.* 40 s or more/, 'no window');

finds(of_stream('asynchronous', ['persist_mode'], server => $new, persist_mode => 'async'), 'persist_mode', 'warning', qr/^async: messages are acknowledged before they are written/, 'asynchronous');

finds(of_stream('plain', []), 'features', 'ok', qr/^It does not allow rollup, ttl, increment, deliver_at, atomic commits, batches of fast ingest\. Messages with deliver_at can wait only in nats_outbox\.$/,
	'plain');
finds(of_stream('counting', [], server => $new, allow_msg_counter => \1), 'features', 'ok', qr/^The stream allows increment\. .*takes no message without increment/, 'counting');
finds(of_stream('later', ['features'], server => $new, allow_msg_schedules => \1), 'features', 'warning',
	qr/allows rollup, deliver_at\. .* have no place to wait: give the stream a subject that takes "schedule\.[^"]*\.x"/, 'later');
finds(of_stream('batches', [], server => $new, allow_atomic => \1, allow_batched => \1), 'features', 'ok', qr/^The stream allows atomic commits, batches of fast ingest\./, 'batches');

sub filled
{
	my ($count) = @_;
	return sub { my ($at, $name, $subject) = @_; $at->js_publish($subject, 'x') foreach 1 .. $count; return; };
}
finds(of_stream('half full', [], max_msgs => 10, discard => 'new', max_bytes => 100000, before => filled(5)), 'limits', 'ok', qr/^Messages: 5 of 10\. Bytes: \d+ of 100000\.$/, 'half full');
finds(of_stream('nearly full', ['limits'], max_msgs => 10, discard => 'new', before => filled(8)), 'limits', 'warning', qr/^Messages: 8 of 10, 80 %\. Raise/, 'nearly full');
finds(of_stream('full, of old ones', [], max_msgs => 10, before => filled(11)), 'limits', 'ok', qr|^Messages: 10 of 10; beyond that, the oldest go\.|, 'full, of old ones');
finds(of_stream('full', ['limits'], max_msgs => 10, discard => 'new', before => filled(10)), 'limits', 'failed', qr/^Messages: 10 of 10: full/, 'full');
finds(of_stream('bytes', ['limits'], max_bytes => 400, discard => 'new', before => filled(9)), 'limits', 'warning', qr/^Bytes: \d+ of 400/, 'bytes');
finds(of_stream('small messages', [], max_msg_size => 1000), 'limits', 'ok', qr/messages of 1000 bytes at most, the server of 1048576/, 'small messages');

# ---- A connection that is lost between two checks

my $LAST_PING = 2;    # of ours, behind libnats's own: that of the inbox, and that of the connection

# Answers everything about a stream, and leaves with the answer to a subject (or to the doctor's first PING), or without it.
# Then it takes connections again, or is gone for good.
sub leaving
{
	my ($last, $how) = @_;
	my %answers = (
		%{ api() },
		'$JS.API.STREAM.INFO.S' => '{"config":{"storage":"file","retention":"interest","discard":"old","duplicate_window":120000000000},"state":{"consumer_count":1}}',
		'$SYS.REQ.USER.INFO' => '{"data":{"user":"a"}}',
		'$JS.API.CONSUMER.LIST.S' => '{"total":1,"consumers":[{}]}',
		's.a' => '{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"},"stream":"S","seq":0}');
	my $left = PostgreSQL::Test::Utils::tempdir('left') . '/left';
	return FakeServer->new(
		sub
		{
			my ($peer) = @_;
			return if $how =~ /for good/ && -e $left;
			$peer->handshake;
			$peer->{mute} = 1;
			my $pings = 0;
			while (my $command = $peer->next_command)
			{
				next unless $command->{verb} =~ /^(PING|PUB)$/;
				my $what = $command->{subject} // 'PING ' . ++$pings;
				my $answer = defined $command->{subject} ? $peer->reply_bytes($command, $answers{$what}) : "PONG\r\n";
				if ($what eq $last && !-e $left)
				{
					append_to_file($left, '');
					return $how =~ /without/ ? undef : $peer->leave($answer);
				}
				$peer->send($answer);
			}
			return;
		});
}

sub loses
{
	my ($last, $how, $failed, $unknown) = @_;
	my $what = "lost $how at $last";
	my $start = time;
	my $rows = doctor_at(leaving($last, $how)->url, q('s.a', true), ack_timeout => $how =~ /without/ ? '1s' : '5s');
	cmp_ok(time - $start, '<', $BOUND, "$what: in bounded time");
	complains_only_of($rows, $what, @$failed);
	unknown_are($rows, $what, @$unknown);
	my @silent = grep { $rows->{$_}{detail} !~ /could not (ask|be (asked|looked at|sent)|connect)|does not answer|no connection|is not known|^nats:\/\/[\d.:]+ \(\w+\): /i } @$failed, @$unknown;
	is_deeply(\@silent, [], 'as each of them says');
	return;
}

{
	my @stream = @OF_SUBJECT[ 1 .. $#OF_SUBJECT ];
	my @permissions = ('permissions', @stream);
	my $PING = "PING $LAST_PING";
	my @for_good = (
		[ $PING, ['round_trip'], [ qw(server jetstream), @permissions ] ],
		[ '$JS.API.INFO', ['round_trip'], \@permissions ],
		[ '$SYS.REQ.USER.INFO', [], \@stream ],
		[ '$JS.API.STREAM.NAMES', [], \@stream ],
		[ '$JS.API.STREAM.INFO.S', [], [qw(stream retention)] ]);
	loses($_->[0], 'for a moment', [], []) foreach @for_good;
	loses($_->[0], 'for good', @$_[ 1, 2 ]) foreach @for_good;

	loses($PING, 'for good, without it,', ['connection'], [ qw(server jetstream round_trip), @permissions ]);
	loses('$JS.API.INFO', 'for good, without it,', ['round_trip'], [ 'jetstream', @permissions ]);
	loses('$SYS.REQ.USER.INFO', 'for good, without it,', [], \@permissions);
	loses($_, 'for good, without it,', [], \@stream) foreach '$JS.API.STREAM.NAMES', '$JS.API.STREAM.INFO.S';
	loses('$JS.API.CONSUMER.LIST.S', 'for good, without it,', [], ['retention']);
}

# ---- settings

sub settings
{
	my ($what, $status, $detail, %settings) = @_;
	my $rows = doctor_at(url($settings{server} // $nats, 'admin'), q('t.a'), map { $_ => $settings{$_} } grep { $_ ne 'server' } keys %settings);
	finds($rows, 'settings', $status, $detail, $what);
	complains_only_of($rows, $what, $status eq 'ok' ? () : 'settings');
	return;
}
settings('off', 'warning', qr/publishing is off/, publishing => 'off');
settings('dry_run', 'warning', qr/publishing is dry_run/, publishing => 'dry_run');
settings('no ids', 'warning', qr/auto_msg_id is off/, auto_msg_id => 'off');
settings('an early commit', 'warning', qr/ack_timeout is longer than commit_timeout/, ack_timeout => '11s');
settings('atomic, of an old server', 'warning', qr/atomic, which this server does not support/, commit_batch => 'atomic') if $minor < 12;
settings('atomic, not allowed', 'warning', qr/atomic, which the stream does not allow/, commit_batch => 'atomic', server => $new);
settings('synchronous_commit', 'warning', qr/synchronous_commit is off/, synchronous_commit => 'off');
settings('two at once', 'warning', qr/publishing is off.*auto_msg_id is off/, publishing => 'off', auto_msg_id => 'off');
$client{new}->create_stream('ATOMIC', ['atomic.>'], storage => 'file', allow_atomic => \1);
complains_only_of(doctor_at(url($new, 'admin'), q('atomic.a'), commit_batch => 'atomic'), 'atomic');
finds(doctor_at(url($nats, 'admin'), q('t.a', true), publishing => 'off'), 'stream', 'unknown', qr/No probe was sent: nats_publish\.publishing is not on/, 'off');
$node->append_conf('postgresql.conf', 'fsync = off');
$node->reload;
ok(wait_for('fsync to be off', sub { $node->safe_psql('postgres', 'SHOW fsync') eq 'off' }), 'fsync = off');
settings('fsync', 'warning', qr/fsync is off/);

# ---- A server that answers nonsense

my $DEEP = '{"a":' x 100000;
my @nonsense = ('x', '{}', '[]', 'null', '{"streams":[null,1,{"a":1}],"data":[1],"server":{"time":1}}',
	'{"streams":["S"],"config":[],"state":[],"data":{"permissions":1},"server":1}',
	'{"streams":["S"],"config":{"num_replicas":"x","duplicate_window":1e999,"max_msgs":1e30,"retention":"interest"},"state":{"messages":-5,"consumer_count":7},
		"cluster":{"name":1,"leader":{},"replicas":[1,{},[],{"name":{}}]},"consumers":[1,{},{"config":[]}],"total":1e18,
		"data":{"permissions":{"publish":{"allow":[1,null,{}],"deny":{"a":"b"}}}},"tiers":[],"limits":[]}',
	'{"error":1}', '{"error":{"code":"x"}}', '{"error":{"code":400,"err_code":10060,"description":"%s%n"},"stream":"\u00e4\u0001"}',
	'{"stream":"S","seq":1}', '{"streams":["' . 'S' x 100000 . '"]}', "\xff\xfe", $DEEP);
foreach my $nonsense (@nonsense)
{
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, $nonsense); return; });
	my $session = session(url => $fake->url, ack_timeout => '2s');
	my $result = $session->run(q(BEGIN; SELECT count(*) FROM nats_check('s.a', true); SELECT count(*) FROM nats_check(); SELECT count(*) > 5 FROM nats_explain('s.a', 'x'); COMMIT; SELECT 1));
	is($result->{output}, "20\n9\nt\n1", 'nonsense: ' . (substr($nonsense, 0, 60) =~ s/[^ -~]/?/gr)) or diag $result->{error};
}

# One that falls silent between two checks

{
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, '{"streams":1}'); $peer->{mute} = 1; return; });
	my $rows = doctor(session(url => $fake->url, ack_timeout => '1s'), q('s.a'));
	finds($rows, 'jetstream', 'ok', qr/with 1 stream\.$/, 'a server that falls silent');
	finds($rows, 'round_trip', 'failed', qr/^The server does not answer a PING\. Check that it runs/, 'a server that falls silent');
	finds($rows, $_, 'unknown', qr/^The server does not answer\.$/, 'a server that has fallen silent') foreach qw(permissions stream storage);
}

# ---- What it leaves: nothing

{
	my $session = session();
	my %sql = (
		'of a stream' => q(SELECT count(*) FROM generate_series(1, 300) AS i, LATERAL nats_check('t.' || i)),
		'without a connection' => q(SET nats_publish.url = 'nats://127.0.0.1:1,nats://127.0.0.1:1'; SELECT count(*) FROM generate_series(1, 300) AS i, LATERAL nats_check('t.' || i)),
		'nats_explain()' => q(RESET nats_publish.url; SELECT count(*) FROM generate_series(1, 300) AS i, LATERAL nats_explain('t.' || i, 'x')));
	foreach my $what (sort keys %sql)
	{
		$session->value($sql{$what} . ' \\g /dev/null');
		my @before = map { $_->($session->pid) } \&process_memory, \&process_files, \&process_threads;
		$session->value($sql{$what} . ' \\g /dev/null') foreach 1 .. 3;
		my @after = map { $_->($session->pid) } \&process_memory, \&process_files, \&process_threads;
		cmp_ok($after[0] - $before[0], '<', 2048, "$what: memory");
		# the thread of the last attempt to connect may still be on its way out
		ok(wait_for('descriptors to be closed', sub { process_files($session->pid) <= $before[1] }), "$what: no descriptor is left");
		ok(wait_for('threads to end', sub { process_threads($session->pid) <= $before[2] }), "$what: no thread is left");
	}
}

{
	my $session = session();
	my $stored = sub { return $client->stream_info('T')->{state}{messages}; };
	my $before = $stored->();
	my $result = $session->run(q(BEGIN;
		SELECT count(nats_publish_async('t.a', i::text)) FROM generate_series(1, 1000) i \g /dev/null
		SELECT nats_publish_on_commit('t.a', 'held') \g /dev/null
		SELECT count(*) FROM nats_check('t.a', true);
		SELECT count(*) FROM nats_check('nowhere', true);
		SELECT count(*) FROM nats_check('a..b', true);
		SELECT count(*), count(*) FILTER (WHERE status <> 'failed') FROM nats_futures();
		COMMIT));
	is($result->{error}, '', 'a transaction with futures commits');
	is($result->{output}, "20\n20\n20\n1000|1000", 'and knows of them');
	is($stored->() - $before, 1001, 'all messages are stored, and no others');
	is($session->value('SELECT published, acked, failed FROM nats_session_stats()'), '1001|1001|0', 'nothing else is counted');
	is($session->sqlstate(q(BEGIN READ ONLY; SELECT count(*) FROM nats_check('t.a', true) \g /dev/null
		SELECT count(*) FROM nats_check() \g /dev/null
		COMMIT)), '', 'in a read-only transaction');

	# checks that fail, in a transaction that does not
	$result = $session->run(q(BEGIN; SAVEPOINT s;
		SELECT count(*) FROM nats_check('t.a', true) \g /dev/null
		ROLLBACK TO s;
		SET LOCAL nats_publish.url = 'nats://127.0.0.1:1';
		SELECT count(*) FROM nats_check('t.a', true) \g /dev/null
		SET LOCAL nats_publish.server = 'none';
		SELECT count(*) FROM nats_check('t.a', true) \g /dev/null
		COMMIT;
		SELECT (nats_publish('t.a', 'x')).stream));
	is($result->{error} . $result->{output}, 'T', 'checks that fail let the transaction commit, and the session publish');

	# the connection goes while a probe is out
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->close if $command->{subject} eq 't.a'; $peer->reply($command, '', ' 503'); return; });
	finds(doctor_at($fake->url, q('t.a', true)), 'stream', 'unknown', qr/The probe failed: /, 'a connection that is lost');
}
{
	$node->safe_psql('postgres', 'CREATE ROLE doctor LOGIN; GRANT EXECUTE ON FUNCTION nats_check(text, boolean) TO doctor');
	my $session = PsqlSession->new($node, user => 'doctor');
	complains_only_of(doctor($session, q('t.a', true)), 'a role that may do nothing else', 'settings');
	is($session->sqlstate(q(SELECT nats_explain('t.a', 'x'))), '42501', 'nats_explain() is not granted');
}

# In another encoding
{
	publishing_database($node, 'latin1', 'LATIN1');
	my $session = PsqlSession->new($node, dbname => 'latin1', settings => { client_encoding => 'UTF8' });
	$session->value(qq(SELECT nats_create_stream('GR\xc3\x9cN', '{gr\xc3\xbcn.>}') \\g /dev/null\n));
	my $rows = doctor($session, qq('gr\xc3\xbcn.a', true));
	complains_only_of($rows, 'LATIN1', 'settings');
	finds($rows, 'stream', 'ok', qr/^"GR\xc3\x9cN" takes the subject\. "GR\xc3\x9cN" takes the probe\.$/, 'LATIN1');
}

# ---- relay

my $INSERT = q(INSERT INTO nats_outbox (subject, msg_id) VALUES ('t.r', gen_random_uuid()));
{
	my $session = session();
	$session->value($INSERT);
	finds(doctor($session, ''), 'relay', 'failed', qr/^There is no relay\. Put nats_publish into shared_preload_libraries.*In nats_outbox: 1 message, the oldest for 00:0/, 'rows and no relay');
	$session->value('TRUNCATE nats_outbox');
	$session->value(q(INSERT INTO nats_outbox_dead (id, subject, msg_id, created_at, attempts) VALUES (1, 't.r', 'x', now(), 10)));
	finds(doctor($session, ''), 'relay', 'warning', qr/needs none.*In nats_outbox_dead: 1 message\. Fix/, 'dead rows');
	$node->append_conf('postgresql.conf', q(nats_publish.relay_databases = 'other, postgres'));
	$node->reload;
	ok(wait_for('the setting', sub { $session->value('SHOW nats_publish.relay_databases') ne '' }), 'relay_databases');
	finds(doctor($session, ''), 'relay', 'warning', qr/^There is no relay\. Put nats_publish into shared_preload_libraries/, 'a relay that is wanted, and not preloaded');
	$session->value('TRUNCATE nats_outbox_dead');
	$node->stop;
}
{
	my $primary = PostgreSQL::Test::Cluster->new('relay');
	$primary->init(allows_streaming => 1);
	$primary->append_conf('postgresql.conf', join "\n", "nats_publish.url = '" . url($new, 'admin') . "'", q(shared_preload_libraries = 'nats_publish'), 'fsync = on', '');
	$primary->start;
	$primary->safe_psql('postgres', 'CREATE EXTENSION nats_publish');
	my $session = PsqlSession->new($primary);
	finds(doctor($session, ''), 'relay', 'ok', qr/needs none: it is not in nats_publish\.relay_databases/, 'preloaded, and not relayed');
	unlike(doctor($session, '')->{settings}{detail}, qr/preload/, 'which is not remarked upon');
	$session->value($INSERT);
	finds(doctor($session, ''), 'relay', 'failed', qr/^There is no relay\. Put this database into nats_publish\.relay_databases/, 'rows, and not relayed');
	finds(doctor($session, q('t.a')), 'duplicate_window', 'ok', qr/for 12\.0 s/, 'the window without a relay');

	reconfigure($primary, 'nats_publish.relay_databases' => 'other, postgres');
	wait_for_state($session, 'idle');
	wait_until_drained($session);
	my $rows = doctor($session, q('t.a'));
	finds($rows, 'relay', 'ok', qr/^The relay is (idle|publishing)\. nats_outbox is empty/, 'a relay');
	finds($rows, 'duplicate_window', 'ok', qr/for 42\.0 s/, 'the window with a relay');
	complains_only_of($rows, 'a relay');

	$session->value('SELECT nats_relay_pause()');
	$session->value($INSERT);
	finds(doctor($session, ''), 'relay', 'warning', qr/^The relay is paused\. Call nats_relay_resume\(\).*In nats_outbox: 1 message/, 'paused');
	$session->value('SELECT nats_relay_resume()');
	wait_until_drained($session);

	reconfigure($primary, 'nats_publish.publishing' => 'off');
	wait_for_state($session, 'off');
	finds(doctor($session, ''), 'relay', 'warning', qr/^The relay is off\. Set nats_publish\.publishing to on/, 'off');
	reconfigure($primary, 'nats_publish.publishing' => undef, 'nats_publish.url' => "nats://127.0.0.1:$closed");
	$session->value($INSERT);
	wait_for_state($session, 'waiting');
	$rows = doctor($session, '');
	finds($rows, 'relay', 'warning', qr/^The relay is waiting\. Check that NATS runs.*Its last error: .*In nats_outbox: 1 message/, 'waiting');
	complains_only_of($rows, 'waiting', 'connection', 'relay');
	reconfigure($primary, 'nats_publish.url' => undef);
	wait_until_drained($session);

	# what goes by in a moment, held by a process that is stopped
	my $launcher = launcher_pid($session);
	kill 'STOP', $launcher;
	$session->value('SELECT pg_terminate_backend(pid) FROM nats_relay WHERE datname = current_database()');
	wait_for_state($session, 'stopped');
	$session->value($INSERT);
	finds(doctor($session, ''), 'relay', 'warning', qr/^The relay is stopped\. It will be started again soon.*In nats_outbox: 1 message/, 'stopped');
	publishing_database($primary, 'other');
	finds(doctor(PsqlSession->new($primary, dbname => 'other'), ''), 'relay', 'warning', qr/^The relay is without its database\. It looks again/, 'a new database');
	kill 'CONT', $launcher;
	wait_until_drained($session);

	$primary->safe_psql('postgres', 'CREATE DATABASE third');
	reconfigure($primary, 'nats_publish.relay_databases' => 'other, postgres, third');
	wait_for_state($session, 'no extension', 'third');
	my $worker = relay_pid($session, 'third');
	kill 'STOP', $worker;
	my $third = PsqlSession->new($primary, dbname => 'third');
	$third->value('CREATE EXTENSION nats_publish');
	finds(doctor($third, ''), 'relay', 'warning', qr/^The relay is without the extension\. It looks again/, 'a new extension');
	kill 'CONT', $worker;
	$rows = look_until($third, '', 'relay', qr/^The relay is idle/);
	is($rows->{relay}{status}, 'ok', 'it has looked again');
	$third->close;

	# a table whose row type is a column's is locked, which is not the trigger's fault
	my $locker = PsqlSession->new($primary);
	$session->value(q(CREATE TABLE part (id int); CREATE TABLE whole (id int PRIMARY KEY, part part); SELECT nats_publish_table('whole')));
	$locker->value('BEGIN; LOCK TABLE part');
	finds(doctor(PsqlSession->new($primary), ''), 'changes', 'ok', qr/^All triggers/, 'a locked row type');
	$locker->close;
	$session->value('DROP TABLE whole, part');

	# PostgreSQL has one worker of its own
	foreach my $workers (1, 2)
	{
		reconfigure($primary, max_worker_processes => $workers);
		$session->close;
		$primary->restart;
		$session = PsqlSession->new($primary);
		wait_for('an attempt', sub { relay_column($session, 'last_error') ne '' }) if $workers == 2;
		my $why = $workers == 1 ? q(has not been started\. The server's log says why) : 'is stopped\. .*Its last error: no background worker slot is free';
		finds(doctor($session, ''), 'relay', 'warning', qr/^The relay $why/, "max_worker_processes = $workers");
		$session->value($INSERT);
		finds(doctor($session, ''), 'relay', $workers == 1 ? 'failed' : 'warning', qr/^The relay $why.*In nats_outbox: $workers message/, 'with rows');
	}
	reconfigure($primary, max_worker_processes => undef);
	$session->close;
	$primary->restart;
	$session = PsqlSession->new($primary);
	wait_until_drained($session);

	# on a standby
	$primary->backup('backup');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($primary, 'backup', has_streaming => 1);
	$standby->start;
	$primary->wait_for_catchup($standby);
	$rows = doctor(PsqlSession->new($standby), q('t.a', true));
	complains_only_of($rows, 'a standby');
	finds($rows, 'relay', 'ok', qr/^This is a standby/, 'a standby');
}

done_testing();
