
=pod

=head1 NAME

NatsClient - a small NATS client, to look at what was published with other code than that under test

=head1 SYNOPSIS

  use NatsClient;

  my $client = NatsClient->new(url => $nats->url);
  $client->create_stream('ORDERS', ['orders.>'], max_msgs => 100);
  $client->publish('orders.new', 'payload', headers => { 'Nats-Msg-Id' => '1' });
  is($client->get_message('ORDERS', 1)->{payload}, 'payload');

  $client->subscribe('>');
  my $message = $client->next_message(5);

=head1 DESCRIPTION

The protocol by hand over one socket, with nothing that Perl does not bring along but TLS. Payloads, subjects and
headers are bytes. Whatever the server did not like (-ERR), and an error of the JetStream API, is an
exception; so is a server that does not answer within the timeout.

=cut

package NatsClient;

use strict;
use warnings FATAL => 'all';

use Carp;
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use List::Util qw(max min);
use MIME::Base64 qw(decode_base64);
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(sleep time);

my $CRLF = "\015\012";
my $JSON = JSON::PP->new->utf8->canonical;

# Every answer that a test waits for is a matter of milliseconds; this is for a loaded machine, whose disk can keep
# nats-server for a minute.
my $TIMEOUT = 180;

# Messages that are asked for at a time: a server cuts off who leaves 64 MB unread.
my $CONSUME_AT_ONCE = 1000;

=pod

=head1 METHODS

=over

=item NatsClient->new(url => ..., user => ..., pass => ..., token => ..., timeout => seconds, tls => {...},
tls_first => 1)

Connects (or C<host> and C<port> instead of C<url>), with TLS when there is C<tls>: options of IO::Socket::SSL.
An exception then has its $SSL_ERROR. With C<tls_first>, TLS begins before the server's INFO. Sees its own messages, as any client does.

Also C<creds> or C<nkey>: a user or a key as of NatsAccounts.pm.

=item $client->info

What the server said of itself, decoded.

=item $client->publish($subject, $payload, reply => ..., headers => {...})

A header's value may be an array: a repeated header. Returns at once; flush() asks whether it was taken.

=item $client->flush

Returns when the server has seen everything sent so far. Messages that arrive meanwhile are kept.

=item $client->subscribe($subject), $client->unsubscribe($sid)

subscribe() returns the subscription's id when the server has accepted it.

=item $client->next_message($timeout)

The next message of any subscription, undef when none came in time: a hash of C<sid>, C<subject>,
C<reply>, C<payload>, C<raw_headers> (as they came; undef without any) and C<headers> (the values of each name,
in an array).

=item $client->request($subject, $payload, headers => {...})

Publishes and returns the answer.

=item $client->close

=back

=cut

sub new
{
	my ($class, %args) = @_;
	my ($host, $port) = @args{ 'host', 'port' };
	if (defined $args{url})
	{
		($host, $port) = $args{url} =~ m{^nats://(?:[^@/]*@)?([^:/]+):(\d+)} or croak "bad url $args{url}";
	}
	$host //= '127.0.0.1';

	my $self = bless {
		timeout => $args{timeout} // $TIMEOUT,
		input => '',
		messages => [],
		pings => 0,
		pongs => 0,
		last_sid => 0,
	}, $class;
	$self->{socket} = IO::Socket::INET->new(
		PeerAddr => $host,
		PeerPort => $port,
		Timeout => $self->{timeout}) or croak "cannot connect to $host:$port: $@";
	$self->{socket}->autoflush(1);
	setsockopt($self->{socket}, IPPROTO_TCP, TCP_NODELAY, 1);    # many small writes, each waited for

	my $end = time + $self->{timeout};
	$self->_start_tls($args{tls}) if $args{tls_first};
	until ($self->{info}) { $self->_read_one($end) or croak "no INFO from $host:$port"; }
	$self->_start_tls($args{tls}) if $args{tls} && !$args{tls_first};

	my %connect = (
		verbose => JSON::PP::false,
		pedantic => JSON::PP::false,
		headers => JSON::PP::true,
		no_responders => JSON::PP::true,
		name => 'NatsClient.pm',
		lang => 'perl',
		version => '1');
	$connect{user} = $args{user} if defined $args{user};
	$connect{pass} = $args{pass} if defined $args{pass};
	$connect{auth_token} = $args{token} if defined $args{token};
	$self->_sign(\%connect, @args{ 'creds', 'nkey' });
	$self->_send('CONNECT ' . $JSON->encode(\%connect) . $CRLF);
	$self->flush;
	return $self;
}

# Loaded where it is used: few tests do.
sub _start_tls
{
	my ($self, $options) = @_;
	require IO::Socket::SSL;
	IO::Socket::SSL->start_SSL($self->{socket}, Timeout => $self->{timeout}, %$options)
		or croak "no TLS: $IO::Socket::SSL::SSL_ERROR";
	return;
}

# Proves the identity of a user with a JWT, or of one that the server knows by its public key.
sub _sign
{
	my ($self, $connect, $creds, $nkey) = @_;
	my $key = $creds // $nkey // return;
	require NatsAccounts;
	$connect->{jwt} = $creds->{jwt} if $creds;
	$connect->{nkey} = $nkey->{public} if $nkey;
	my $nonce = $self->{info}{nonce} // croak 'the server asks for no signature';
	$connect->{sig} = NatsAccounts->sign($key->{seed}, $nonce);
	return;
}

sub info { return $_[0]->{info}; }

sub publish
{
	my ($self, $subject, $payload, %args) = @_;
	$payload //= '';
	my $reply = defined $args{reply} ? "$args{reply} " : '';
	if ($args{headers})
	{
		my $headers = "NATS/1.0$CRLF" . _header_lines($args{headers}) . $CRLF;
		my $sizes = length($headers) . ' ' . (length($headers) + length($payload));
		$self->_send("HPUB $subject $reply$sizes$CRLF$headers$payload$CRLF");
	}
	else
	{
		$self->_send("PUB $subject $reply" . length($payload) . "$CRLF$payload$CRLF");
	}
	return;
}

sub flush
{
	my ($self) = @_;
	my $end = time + $self->{timeout};
	my $wanted = ++$self->{pings};    # a PONG can still be to come from a flush that failed
	$self->_send("PING$CRLF");
	while ($self->{pongs} < $wanted)
	{
		$self->_read_one($end) or croak "no PONG in $self->{timeout} s";
	}
	return;
}

sub subscribe
{
	my ($self, $subject) = @_;
	my $sid = ++$self->{last_sid};
	$self->_send("SUB $subject $sid$CRLF");
	$self->flush;
	return $sid;
}

sub unsubscribe
{
	my ($self, $sid) = @_;
	$self->_send("UNSUB $sid$CRLF");
	$self->flush;
	return;
}

sub next_message
{
	my ($self, $timeout) = @_;
	return $self->_next_message_of(undef, $timeout // $self->{timeout});
}

sub request
{
	my ($self, $subject, $payload, %args) = @_;
	my $inbox = sprintf('_INBOX.perl.%d.%08x%08x', $$, rand(2**32), rand(2**32));
	my $sid = $self->subscribe($inbox);
	$self->publish($subject, $payload, %args, reply => $inbox);
	my $answer = $self->_next_message_of($sid, $self->{timeout});
	$self->unsubscribe($sid);
	croak "no answer to a request to $subject" unless $answer;
	croak "nobody answers at $subject" if ($answer->{raw_headers} // '') =~ m{^NATS/1\.0 503};
	return $answer;
}

sub close
{
	my ($self) = @_;
	CORE::close($self->{socket});
	return;
}

=pod

=head1 JETSTREAM

=over

=item $client->js($api, $request)

One request to C<$JS.API.$api>; returns the decoded answer.

=item $client->create_stream($name, [subjects], %config)

In memory unless C<< storage => 'file' >> is said.

=item $client->delete_stream($name), $client->purge($name), $client->stream_info($name)

=item $client->get_message($stream, $seq)

A hash of C<subject>, C<seq>, C<time>, C<payload>, C<raw_headers> and C<headers>; undef when there is none.

=item $client->stream_messages($stream)

All of them, oldest first, in the form of get_message().

=item $client->consume($stream)

The same by a consumer, with C<stored_at> (nanoseconds since 1970) instead of C<time>: for many messages, which come
with few requests.

=item $client->js_publish($subject, $payload, headers => {...})

Publishes and returns the decoded PubAck.

=back

=cut

sub js
{
	my ($self, $api, $request) = @_;
	my $answer = $self->_js_answer($api, $request);
	croak "$api: $answer->{error}{description} ($answer->{error}{err_code})" if $answer->{error};
	return $answer;
}

sub create_stream
{
	my ($self, $name, $subjects, %config) = @_;
	my $end = time + 10;
	while (1)
	{
		my $info = eval { $self->js("STREAM.CREATE.$name", { storage => 'memory', %config, name => $name, subjects => $subjects }) };
		return $info if $info;
		# the files of a stream of this name that was just deleted are being removed
		die $@ if $@ !~ /\(10049\)/ || time > $end;
		sleep 0.05;
	}
}

sub delete_stream
{
	my ($self, $name) = @_;
	return $self->js("STREAM.DELETE.$name");
}

sub purge
{
	my ($self, $name) = @_;
	return $self->js("STREAM.PURGE.$name");
}

sub stream_info
{
	my ($self, $name) = @_;
	return $self->js("STREAM.INFO.$name");
}

sub get_message
{
	my ($self, $stream, $seq) = @_;
	my $answer = $self->_js_answer("STREAM.MSG.GET.$stream", { seq => $seq + 0 });
	if (my $error = $answer->{error})
	{
		return if $error->{err_code} == 10037;    # no message found
		croak "message $seq of $stream: $error->{description} ($error->{err_code})";
	}

	my $message = $answer->{message};
	my $raw = defined $message->{hdrs} ? decode_base64($message->{hdrs}) : undef;
	return {
		subject => $message->{subject},
		seq => $message->{seq},
		time => $message->{time},
		payload => decode_base64($message->{data} // ''),
		raw_headers => $raw,
		headers => _parse_headers($raw) };
}

# All of them, or those behind a sequence number.
sub stream_messages
{
	my ($self, $stream, $after) = @_;
	my $state = $self->stream_info($stream)->{state};
	return () if $state->{messages} == 0;
	return grep { defined } map { $self->get_message($stream, $_) } max($state->{first_seq}, ($after // 0) + 1) .. $state->{last_seq};
}

sub consume
{
	my ($self, $stream) = @_;
	my $count = $self->stream_info($stream)->{state}{messages};
	return () if $count == 0;
	# in memory, as the disk may be busy; one that nobody asks for 5 s would be gone before it is deleted
	my %config = (deliver_policy => 'all', ack_policy => 'none', mem_storage => JSON::PP::true, inactive_threshold => 600 * 1_000_000_000);
	my $consumer = $self->js("CONSUMER.CREATE.$stream", { stream_name => $stream, config => \%config })->{name};
	my $inbox = sprintf('_INBOX.perl.%d.%08x%08x', $$, rand(2**32), rand(2**32));
	my $sid = $self->subscribe($inbox);
	my @messages;
	foreach my $number (1 .. $count)
	{
		if ($number % $CONSUME_AT_ONCE == 1)
		{
			my $batch = min($CONSUME_AT_ONCE, $count - $number + 1);
			$self->publish("\$JS.API.CONSUMER.MSG.NEXT.$stream.$consumer", $JSON->encode({ batch => $batch }), reply => $inbox);
		}
		my $message = $self->_next_message_of($sid, $self->{timeout}) or croak "message $number of $stream does not come";
		# $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence in the stream>.<in the consumer>.<time>.<pending>
		($message->{seq}, $message->{stored_at}) = ($message->{reply} // '') =~ /\.(\d+)\.\d+\.(\d+)\.\d+$/
			or croak "instead of message $number of $stream: " . ($message->{raw_headers} // $message->{payload});
		push @messages, $message;
	}
	$self->unsubscribe($sid);
	$self->js("CONSUMER.DELETE.$stream.$consumer");
	return @messages;
}

sub js_publish
{
	my ($self, $subject, $payload, %args) = @_;
	return $JSON->decode($self->request($subject, $payload, %args)->{payload});
}

sub _js_answer
{
	my ($self, $api, $request) = @_;
	return $JSON->decode(
		$self->request("\$JS.API.$api", defined $request ? $JSON->encode($request) : '')->{payload});
}

sub _header_lines
{
	my ($headers) = @_;
	my $lines = '';
	foreach my $name (sort keys %$headers)
	{
		my $value = $headers->{$name};
		$lines .= "$name: $_$CRLF" foreach ref $value ? @$value : $value;
	}
	return $lines;
}

sub _parse_headers
{
	my ($raw) = @_;
	my %headers;
	my (undef, @lines) = split /$CRLF/, $raw // '';
	foreach my $line (@lines)
	{
		my ($name, $value) = $line =~ /^([^:]*):\s*(.*?)\s*$/s or die "bad header line: $line";
		push @{ $headers{$name} }, $value;
	}
	return \%headers;
}

sub _send
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes)
	{
		my $sent = syswrite($self->{socket}, $bytes) // croak "cannot send: $!";
		substr($bytes, 0, $sent, '');
	}
	return;
}

# The oldest message (of one subscription), waiting for it; undef at the timeout.
sub _next_message_of
{
	my ($self, $sid, $timeout) = @_;
	my $end = time + $timeout;
	while (1)
	{
		my $messages = $self->{messages};
		foreach my $i (0 .. $#$messages)
		{
			return splice(@$messages, $i, 1) if !defined $sid || $messages->[$i]{sid} == $sid;
		}
		$self->_read_one($end) or return;
	}
}

# Takes one line from the server, with the message that follows it; false at the end of time.
sub _read_one
{
	my ($self, $end) = @_;
	my $eol;
	while (($eol = index($self->{input}, $CRLF)) < 0)
	{
		$self->_fill($end) or return 0;
	}
	my $line = substr($self->{input}, 0, $eol);
	my ($verb, @args) = split / +/, $line;
	if ($verb eq 'MSG' || $verb eq 'HMSG')
	{
		my $start = $eol + 2;
		my $size = $args[-1];
		while (length $self->{input} < $start + $size + 2)
		{
			# what has arrived stays in the buffer, and is looked at again next time
			$self->_fill($end) or return 0;
		}
		push @{ $self->{messages} }, _message($verb, \@args, substr($self->{input}, $start, $size));
		substr($self->{input}, 0, $start + $size + 2, '');
		return 1;
	}

	substr($self->{input}, 0, $eol + 2, '');
	if ($verb eq 'PING') { $self->_send("PONG$CRLF"); }
	elsif ($verb eq 'PONG') { $self->{pongs}++; }
	elsif ($verb eq 'INFO') { $self->{info} = $JSON->decode(substr($line, 5)); }
	elsif ($verb eq '-ERR') { croak "the server says: $line"; }
	elsif ($verb ne '+OK') { croak "the server says what is not the protocol: $line"; }
	return 1;
}

# MSG subject sid [reply] size, HMSG subject sid [reply] header-size size
sub _message
{
	my ($verb, $args, $bytes) = @_;
	my @args = @$args;
	my $size = pop @args;
	my $header_size = $verb eq 'HMSG' ? pop @args : 0;
	my ($subject, $sid, $reply) = @args;
	my $raw = $header_size ? substr($bytes, 0, $header_size) : undef;
	return {
		subject => $subject,
		sid => $sid,
		reply => $reply,
		raw_headers => $raw,
		headers => _parse_headers($raw),
		payload => substr($bytes, $header_size) };
}

sub _fill
{
	my ($self, $end) = @_;
	my $left = $end - time;
	# what TLS has read and not given out is not in the socket any more
	my $pending = $self->{socket}->can('pending') ? $self->{socket}->pending : 0;
	return 0 unless $pending || IO::Select->new($self->{socket})->can_read($left > 0 ? $left : 0);
	my $read = sysread($self->{socket}, $self->{input}, 65536, length $self->{input});
	croak "cannot receive: $!" unless defined $read;
	croak "the server closed the connection" if $read == 0;
	return 1;
}

1;
