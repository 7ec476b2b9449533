
# What comes before TLS is hearsay, and so is every length and every text that a server sends: what somebody in the
# network writes into a server's first INFO, and what a server does to fill the memory of its clients.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use ByteProxy;
use Certificates;
use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

my $CRLF = "\r\n";
my $PUBLISH = q(SELECT (nats_publish('t.a', 'x')).stream);
my $SERVER = 'SELECT server_name FROM nats_server_info()';
my $CERTIFICATE = qr/certificate|mismatch/i;

# As in 006_memory.pl
my $FEW_MB = 8 * 1024;

# More than a server may send at once, less than max_payload
my $MUCH = 900_000;

my $certificates = Certificates->new;

# A server with a certificate of these names, known to clients by one of them.
sub secure_server
{
	my ($name, $names, %args) = @_;
	return NatsServer->new(name => $name, tls => $certificates->make($name, names => $names), %args);
}

sub with_stream
{
	my ($nats, %login) = @_;
	NatsClient->new(url => $nats->start->url, tls => { SSL_verify_mode => 0 }, %login)->create_stream('T', ['t.>'], storage => 'memory', allow_msg_ttl => \1, allow_atomic => \1);
	return $nats;
}

my $node = relay_node('main',
	'nats_publish.url' => 'nats://127.0.0.1:' . free_port(),
	'nats_publish.tls_ca_file' => $certificates->ca_file,
	'nats_publish.connect_timeout' => '10s',
	'nats_publish.relay_max_attempts' => 100,
	'log_min_error_statement' => 'panic');
my %HERE = (names => 'DNS:localhost,IP:127.0.0.1');
# What a server says only before TLS, one from 2.12 on says in it, too; a system may have one of these only.
my ($own_minor) = NatsClient->new(url => NatsServer->new->start->url)->info->{version} =~ /^2\.(\d+)/;
my @servers = (with_stream(secure_server($own_minor < 12 ? 'old' : 'new', $HERE{names}, jetstream => 1)));
push @servers, with_stream(secure_server('new', $HERE{names}, jetstream => 1, binary => $ENV{NATS_SERVER_NEW})) if $ENV{NATS_SERVER_NEW} && $own_minor < 12;

sub session { my ($url, %settings) = @_; return publishing_session($node, url => $url, %settings); }

# Somebody in the network, who writes into what a server says before TLS
sub attacker
{
	my ($nats, %fields) = @_;
	return ByteProxy->new($nats, edit => sub { return edited($_[0], %fields); });
}

sub edited
{
	my ($bytes, %fields) = @_;
	return $bytes unless $bytes =~ /^INFO \{/;
	foreach my $field (sort keys %fields) { $bytes =~ s/"$field":(?:"[^"]*"|\[[^\]]*\]|[^,}]*),?//; $bytes =~ s/^INFO \{/INFO {"$field":$fields{$field},/; }
	return $bytes;
}

# ---- Members of the cluster

# An address that is a name, as far as anybody looks at it.
my $NAME = '127.1';

{
	my $evil = with_stream(secure_server('evil', "DNS:$NAME", jetstream => 1));
	my $good = with_stream(secure_server('good', $HERE{names}, jetstream => 1));
	my $proxy = attacker($good, connect_urls => qq(["$NAME:@{[$evil->port]}"]));
	my $before_evil = ByteProxy->new($evil);
	my $watched = attacker($good, connect_urls => qq(["$NAME:$before_evil->{port}"]));
	foreach my $line ($proxy, $watched)
	{
		my $session = session($line->tls_url =~ s{//}{//alice:s3cret@}r, ack_timeout => '5s', commit_timeout => '5s');
		is($session->value("$PUBLISH; $SERVER"), "T\ngood", 'a server that somebody tells lies about');
		$line->stop;
		$good->stop;
		my $result = $session->run($PUBLISH);
		like($result->{sqlstate}, qr/^580[03]0$/, 'when it is gone, one of a name and a certificate that the liar has chosen is not believed');
		like($result->{error}, $CERTIFICATE, 'for its certificate') if $line == $proxy;
		is($session->sqlstate(q(BEGIN; SELECT nats_publish_on_commit('t.a', 'secret'); COMMIT)), '58000', 'nor by a COMMIT');
		$session->close;
		with_stream($good);
	}
	cmp_ok($before_evil->connections, '>', 0, 'it was tried');
	unlike($before_evil->client_bytes, qr/CONNECT|s3cret|secret/, 'and told nothing');
	is(NatsClient->new(url => $evil->url, tls => { SSL_verify_mode => 0 })->stream_info('T')->{state}{messages}, 0, 'it has no message');

	# without a promise, names are believed as ever
	$proxy = attacker($good, connect_urls => qq(["$NAME:@{[$evil->port]}"]));
	my $session = session('nats://localhost:' . $proxy->{port});
	is($session->value($SERVER), 'good', 'nats:// to a server that requires TLS');
	$proxy->stop;
	$good->stop;
	is($session->value($SERVER), 'evil', 'goes to whom it tells of');
	$_->stop foreach $evil, $good;
}

# Two servers of a cluster, known by these names.
sub members
{
	my ($binary, %names) = @_;
	my @ports = map { free_port() } 1 .. 2;
	my $routes = join ', ', map { qq("nats-route://127.0.0.1:$_") } @ports;
	my ($known_as, @members) = ('localhost');
	foreach my $port (@ports)
	{
		my $client_port = free_port();
		push @members, secure_server($port == $ports[0] ? 'first' : 'second', $port == $ports[0] ? $HERE{names} : $names{certificate},
			port => $client_port,
			binary => $binary,
			config => qq(client_advertise: "$known_as:$client_port"\ncluster { name: C, listen: "127.0.0.1:$port", routes: [$routes] }));
		$known_as = $NAME;
	}
	return @members;
}

sub wait_for_members
{
	my (@members) = @_;
	foreach my $member (@members)
	{
		wait_for('the members', sub { @{ NatsClient->new(url => $member->url, tls => { SSL_verify_mode => 0 })->info->{connect_urls} // [] } == 2 });
	}
	return;
}

foreach my $nats (@servers)
{
	my $kind = $nats->{name};
	my ($first, $second) = members($nats->{binary}, certificate => "DNS:$NAME");
	$first->start;
	my $session = session($first->tls_url);
	is($session->value($SERVER), 'first', "a server ($kind)");
	$second->start;
	wait_for_members($first, $second);
	is($session->value($SERVER), 'first', 'that tells in TLS of another one that has come');
	$first->stop;
	is($session->value($SERVER), 'second', 'which takes over, under its own name');

	# old servers tell of a cluster that does not change before TLS only
	$first->start;
	wait_for_members($first, $second);
	$session = session($first->tls_url);
	is($session->value($SERVER), 'first', 'and once more');
	$first->stop;
	my $result = $session->run($SERVER);
	if ($kind eq 'new') { is($result->{output}, 'second', 'it was told in TLS'); }
	else { like($result->{error}, $CERTIFICATE, 'it was not told in TLS'); }
	$second->stop;

	($first, $second) = members($nats->{binary}, certificate => "DNS:$NAME,DNS:localhost");
	$_->start foreach $first, $second;
	wait_for_members($first, $second);
	$session = session($first->tls_url);
	is($session->value($SERVER), 'first', 'a cluster with a certificate of one name');
	$first->stop;
	is($session->value($SERVER), 'second', 'of which it does not matter where it is told');
	$second->stop;
}

# ---- Limits and versions

foreach my $nats (@servers)
{
	my $kind = $nats->{name};
	my $proxy = attacker($nats, max_payload => 10);
	my $session = session($proxy->tls_url);
	my $result = $session->run(q(SELECT (nats_publish('t.a', repeat('x', 100))).stream));
	if ($kind eq 'new') { is($result->{output} . $result->{error}, 'T', 'a limit that somebody has made up: the server tells its own in TLS'); }
	else { is($result->{sqlstate}, '54000', 'a limit that somebody has made up'); }

	$result = $session->run(q(SELECT nats_publish('t.a', repeat('x', 2000000))));
	is($result->{sqlstate}, '54000', 'a message over the limit');
	like($result->{error}, qr/max_payload is 1048576$/m, 'of which the server is asked') if $kind eq 'new';
	$result = $session->run(q(SELECT (nats_publish('t.a', repeat('x', 100))).stream));
	is($result->{output}, 'T', 'and the answer of somebody else is not believed') if $kind eq 'new';
	is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '1|0', 'on the same connection');

	$proxy = attacker($nats, max_payload => 67108864);
	$session = session($proxy->tls_url);
	is($session->sqlstate(q(SELECT nats_publish('t.a', repeat('x', 2000000)))), '54000', 'a limit that was lifted is that of the server');
	is($session->value($PUBLISH), 'T', 'and the session goes on');
}

foreach my $nats (@servers)
{
	my $kind = $nats->{name};
	my $client = NatsClient->new(url => $nats->url, tls => { SSL_verify_mode => 0 });
	my $ttl = q(SELECT (nats_publish('t.ttl', 'x', ttl => '1 h')).stream);
	my $atomic = q(BEGIN; SELECT count(nats_publish_on_commit('t.atomic', i::text)) FROM generate_series(1, 3) i; COMMIT);
	my $proxy = attacker($nats, version => $kind eq 'new' ? '"2.9.10"' : '"2.15.0"', server_name => '"liar"');
	my $session = session($proxy->tls_url, commit_batch => 'atomic', ack_timeout => '5s', commit_timeout => '5s');
	$client->purge('T');
	my @results = map { $session->run($_) } $ttl, $atomic;
	if ($kind eq 'new')
	{
		is($results[0]{output} . $results[0]{error}, 'T', 'a version that somebody has made up: the server tells its own in TLS');
		is($results[1]{error}, '', 'and it is that which counts');
		is($proxy->connections, 1, 'nobody else is asked');
		is($session->value($PUBLISH . q(; SELECT server_name FROM nats_publish_activity WHERE pid = pg_backend_pid())), "T\nnew", 'nor for its name');
		$session->value('SELECT FROM nats_server_info()');
		is($session->value(q(SELECT server_name FROM nats_publish_activity WHERE pid = pg_backend_pid())), 'new', 'even when he is');
	}
	else
	{
		foreach my $result (@results)
		{
			is($result->{sqlstate}, '58000', 'a newer version than that of the server');
			like($result->{error}, qr/tells a version before TLS begins, but not inside TLS/, 'which it would have told');
		}
		$session->run('ROLLBACK');
		is($client->stream_info('T')->{state}{messages}, 0, 'nothing was stored without its expiry, or member by member');
		is($session->value("RESET nats_publish.commit_batch; $PUBLISH"), 'T', 'and the session goes on');
	}
}

# The relay gives up what is too large, but not for what somebody says
if ($own_minor < 12)
{
	my ($old) = @servers;
	my $lies = $certificates->write('lies', '');
	my $proxy = ByteProxy->new($old, edit => sub { return -e $lies ? edited($_[0], max_payload => 10) : $_[0]; });
	reconfigure($node, 'nats_publish.url' => $proxy->tls_url);
	my $session = PsqlSession->new($node);
	$session->value(q(SELECT nats_publish_outbox('t.relay', repeat('x', 100))));
	wait_for('the first attempt', sub { $session->value(q(SELECT coalesce(max(attempts), 1) FROM nats_outbox)) > 0 });
	is($session->value(q(SELECT count(*) FROM nats_outbox_dead)), '0', 'a message over a limit that somebody has made up is not dead');
	like($session->value(q(SELECT last_error FROM nats_outbox)), qr/max_payload is 10$/, 'but waits');
	unlink $lies;
	$session->value('SELECT nats_outbox_retry(id) FROM nats_outbox');
	ok(wait_until_drained($session), 'and goes out when nobody lies any more');
	$session->value(q(SELECT nats_publish_outbox('t.relay', repeat('x', 2000000))));
	wait_for('its end', sub { $session->value('SELECT count(*) FROM nats_outbox_dead') == 1 });
	pass('what no server takes by default is dead at once');
	$session->value('TRUNCATE nats_outbox_dead');
	reconfigure($node, 'nats_publish.url' => undef);
}

# ---- Sockets and programs

# What a program that the backend starts has of ours
sub inherited
{
	my ($session) = @_;
	my $path = $certificates->write('descriptors', '');
	chmod 0666, $path;
	$session->value(qq(COPY (SELECT 1) TO PROGRAM 'readlink /proc/self/fd/* | grep -c socket >$path; true'));
	return slurp_file($path) =~ s/\s//gr;
}
{
	my $plain = FakeServer->answering(sub { $_[0]->reply($_[1], '{"stream":"T","seq":1}'); });
	foreach my $url ($plain->url, $servers[0]->tls_url)
	{
		my $session = session($url);
		my $before = inherited($session);
		$session->value("BEGIN; $PUBLISH");
		is(inherited($session), $before, 'a program that is started does not get the connection to NATS');
		is($session->value("COMMIT; $PUBLISH"), 'T', 'which goes on');
		# the program that outlives its backend does not keep it open
		$session->close;
	}
}

# ---- Memory

sub growth
{
	my ($session, $sql, @before) = @_;
	$session->value($_) foreach $PUBLISH, @before;
	my $before = process_memory($session->pid);
	my ($peak) = peak_memory($session, $sql);
	return $peak - $before;
}

sub ack { return sprintf('{"stream":"T","seq":%s}', $_[0] // 1); }

# The first message of each connection is answered well, the others so.
sub then
{
	my ($handler, %info) = @_;
	return FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			return $handler->($peer, $command) if $peer->{is_warm};
			$peer->{is_warm} = 1;
			return $peer->reply($command, ack());
		},
		%info);
}

my $LONG = 'x' x $MUCH;
{
	my $fake = then(
		sub
		{
			my ($peer, $command) = @_;
			$peer->send($peer->info_line(server_name => qq("$LONG"))) foreach 1 .. 60;
			$peer->reply($command, ack());
		});
	my $growth = growth(session($fake->url), $PUBLISH);
	cmp_ok($growth, '<', $FEW_MB, "60 INFOs of 0.9 MB in one wait are not kept: $growth kB");
}
{
	# each waits for its next try, with what was said at the first one
	my $fake = then(
		sub
		{
			my ($peer, $command) = @_;
			$peer->reply($command, qq({"error":{"code":503,"err_code":10008,"description":"$LONG"}})) if !$peer->{seen}{ $command->{id} }++;
			$peer->reply($command, ack()) if $peer->{seen}{ $command->{id} } == 2;
		});
	my $session = session($fake->url, ack_timeout => '60s', commit_timeout => '60s');
	my $growth = growth($session, q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 50) \g /dev/null
		COMMIT));
	cmp_ok($growth, '<', $FEW_MB, "nor 50 reasons of 0.9 MB to try again: $growth kB");
	is($session->value('SELECT retried > 0, failed FROM nats_session_stats()'), 't|0', 'there they were');
}
{
	my $fake = then(sub { my ($peer, $command) = @_; $peer->reply($command, qq({"stream":"$LONG","domain":"$LONG","seq":1})); });
	my $session = session($fake->url, commit_timeout => '60s', ack_timeout => '60s', max_pending => 10);
	$session->value(q(SET work_mem = '1GB'));
	my $growth = growth($session, q(BEGIN; SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 30) \g /dev/null
		SELECT nats_flush() \g /dev/null
		SELECT ));
	cmp_ok($growth, '<', $FEW_MB, "nor 30 names of 0.9 MB: $growth kB");
	is($session->value('SELECT count(*), max(length(stream)) FROM nats_futures()'), '30|256', 'but as much as a name can have');
	is($session->value(q(COMMIT; SELECT length((nats_publish('t.a', 'x')).stream))), '256', 'as by a call');
}
foreach my $description ('x' x $MUCH, "\xe2\x82\xac" x ($MUCH / 3))
{
	my $fake = then(sub { my ($peer, $command) = @_; $peer->reply($command, qq({"error":{"code":400,"err_code":10071,"description":"$description"}})); });
	my $session = session($fake->url, commit_timeout => '60s', ack_timeout => '60s', max_pending => 10);
	my $growth = growth($session, q(SET client_min_messages = error; BEGIN; SELECT count(nats_publish_async('t.a', 'x', critical => false)) FROM generate_series(1, 30) \g /dev/null
		SELECT nats_flush() \g /dev/null
		SELECT ));
	cmp_ok($growth, '<', $FEW_MB, "nor 30 descriptions of 0.9 MB: $growth kB");
	is($session->value(q(SELECT count(*), max(octet_length(error)) BETWEEN 900 AND 1100, bool_or(error LIKE '%?%') FROM nats_futures())), '30|t|f', 'but a start of each, in whole characters');
	my $error = $session->error(q(COMMIT; SELECT nats_publish('t.a', 'x')));
	cmp_ok(length $error, '<', 5000, 'as in an error');
	ok(utf8::decode($error), 'which is text');
	like($session->value(q(SELECT last_error FROM nats_publish_activity WHERE pid = pg_backend_pid())), qr/could not publish/, 'and in the view');
}
{
	# a longer reply than any message may be by default is not even read as JSON
	my $fake = then(sub { my ($peer, $command) = @_; $peer->reply($command, '{"error":{"description":"' . 'x' x 20_000_000 . '"}}'); });
	my $session = session($fake->url, ack_timeout => '60s');
	$session->value($PUBLISH);
	my $result = $session->run($PUBLISH);
	is($result->{sqlstate}, '58030', 'an answer of 20 MB');
	like($result->{error}, qr/not an acknowledgment/, 'is none');
}
{
	# a length is a promise, and takes nothing
	my $fake = then(sub { my ($peer, $command) = @_; $peer->send("MSG $command->{reply} 1 67108864$CRLF" . 'x' x 1000); });
	# another connection would have another first message
	my $session = session($fake->url, auto_msg_id => 'off');
	my $growth = growth($session, qq(DO \$\$ BEGIN PERFORM nats_publish('t.a', 'x'); RAISE 'it was published';
		EXCEPTION WHEN io_error THEN NULL; END \$\$), q(SET nats_publish.ack_timeout = '1s'));
	cmp_ok($growth, '<', $FEW_MB, "64 MB that are promised: $growth kB");
}
{
	# who is asked for his features sends something else
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			if ($number % 2 == 0) { $peer->send("MSG a 1 60000000$CRLF" . 'x' x 60_000_000); return; }
			$peer->handshake;
			while (my $command = $peer->next_command) { $peer->reply($command, ack()) if $command->{verb} eq 'PUB'; }
		});
	my $session = session($fake->url);
	my $growth = growth($session, q(DO $$ BEGIN PERFORM nats_server_info(); RAISE 'it has answered';
		EXCEPTION WHEN system_error THEN NULL; END $$));
	cmp_ok($growth, '<', $FEW_MB, "a greeting of 60 MB: $growth kB");
}
{
	# an outbox has room for what is worth it
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, qq({"error":{"code":400,"err_code":10054,"description":"$LONG"}})); });
	reconfigure($node, 'nats_publish.url' => $fake->url);
	my $session = PsqlSession->new($node);
	$session->value(q(SELECT nats_publish_outbox('t.relay', 'x')));
	my $error = q(SELECT max(length(last_error)) FROM (SELECT last_error FROM nats_outbox UNION ALL SELECT last_error FROM nats_outbox_dead) AS errors);
	wait_for('the refusal', sub { $session->value($error) ne '' });
	like($session->value($error), qr/^(9\d\d|10\d\d)$/, 'the last error of a message of the outbox is short');
	reconfigure($node, 'nats_publish.url' => undef);
	$session->value('SELECT nats_relay_pause(); TRUNCATE nats_outbox, nats_outbox_dead');
}
{
	# names that are too long for where they are shown end with a whole character
	my $name = "\xc3\xa9" x 50;
	my $shown = q(SELECT server_name FROM nats_publish_activity WHERE pid = pg_backend_pid());
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			$peer->send($peer->info_line(server_name => qq("$name"))) if $command->{payload} eq 'tell';
			$peer->reply($command, ack());
		},
		server_id => qq("$name"), server_name => qq("$name"));
	my $session = session($fake->url);
	is($session->value("$PUBLISH; $shown"), "T\n" . "\xc3\xa9" x 31, 'a long name');
	is($session->value("SELECT (nats_publish('t.a', 'tell')).stream; $shown"), "T\n" . "\xc3\xa9" x 31, 'that is told again');
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP|s3cret/, 'no backend has crashed, and no secret is in the log');

done_testing();
