
=pod

=head1 NAME

Chaos::Client - a session that runs its transactions and writes down what it was told

=head1 SYNOPSIS

  Chaos::Client::run(seed => 1, client => 3, log => $file, connection => sub { "dbi:Pg:..." }, atomic => 1,
      big => sub { ... }, until => sub { ... });

=head1 DESCRIPTION

Runs the client's transactions of the plan, one after the other, until C<until> returns true. When the session is
lost it waits until there is a server again, however long; C<connection> is asked for each time, and C<big> whether the next
transaction is to hold megabytes.

A line of the log is a time and fields with tabs between them. Each attempt of a transaction has a row in the table
C<ledger>, by which is known whether it was committed, when nobody was told.

  begin    attempt, "anonymous" or nothing,    1.17.0: client, transaction, how often it was tried before; whether its
           "impatient" or nothing              messages have no ids, and whether it has short timeouts
  call     message, mode, bytes                is about to be published
  told     message, "ok", stream, sequence     by its PubAck; without one, the first is empty and the second what the
                                               function returned: a future, or the id of a row of the outbox
  told     message, SQLSTATE, text             that it failed; "lost" when the session was
  undone   message                             by a rollback to a savepoint
  flushed                                      nats_flush() has returned
  waited   since, "ok" or SQLSTATE, text       a statement, COMMIT too, has failed, or took long
  end      commit or rollback                  is about to be sent
  done     "committed" or "rolled back"; or SQLSTATE, text, detail; or "lost", SQLSTATE, text; or "unknown": committed,
           but the standby may not have it

=cut

package Chaos::Client;

use strict;
use warnings FATAL => 'all';

use DBI;
use Time::HiRes qw(sleep time);

use Chaos::Plan;

# How long there may be no PostgreSQL. A crash recovery takes seconds.
my $NO_SERVER_SECONDS = 120;

# A statement that takes so long has waited for something that did not come at first.
my $LONG_SECONDS = 1;

my %FUNCTION = (
	async => 'nats_publish_async', uncritical => 'nats_publish_async', held => 'nats_publish_on_commit',
	atomic => 'nats_publish_on_commit', wal => 'publish_through_wal', gone => 'publish_through_wal',
	map { ($_ => 'nats_publish_outbox') } qw(outbox late unheard noack large));

sub run
{
	my (%args) = @_;
	my $self = bless {%args}, __PACKAGE__;
	open($self->{file}, '>', $self->{log}) or die "$self->{log}: $!";
	$self->{file}->autoflush(1);

	for (my $number = 1; !$self->{until}->(); $number++)
	{
		my $transaction = Chaos::Plan::transaction($self->{seed}, $self->{client}, $number, atomic => $self->{atomic}, big => $self->{big}->());
		sleep $transaction->{pause};
		foreach my $attempt (0 .. $transaction->{retries})
		{
			last if $self->_attempt($transaction, $attempt);
		}
	}
	$self->{session}->disconnect if $self->{session};
	return;
}

# Returns whether it need not be tried again.
sub _attempt
{
	my ($self, $transaction, $attempt) = @_;
	$self->_connect;
	@$self{qw(messages savepoints futures transaction)} = ([], [], {}, $transaction);
	my $name = $self->{attempt} = "$transaction->{name}.$attempt";
	$self->_note('begin', $name, $transaction->{anonymous} ? 'anonymous' : '', $transaction->{impatient} || $transaction->{hurried} ? 'impatient' : '');
	unless ($self->_do('BEGIN') && $self->_do('INSERT INTO ledger VALUES (?)', $name) && $self->_settings)
	{
		$self->_caught;
		return 0;
	}
	foreach my $step (@{ $transaction->{steps} })
	{
		my $what = "_$step->{what}";
		next if $self->$what($step);
		next if $self->_caught;
		return 0;
	}
	return $self->_end($transaction->{end});
}

sub _settings
{
	my ($self) = @_;
	my ($anonymous, $impatient, $hurried) = @{ $self->{transaction} }{qw(anonymous impatient hurried)};
	return 0 if $hurried && !$self->_do("SET LOCAL statement_timeout = $hurried");
	return 0 if $anonymous && !$self->_do('SET LOCAL nats_publish.auto_msg_id = off');
	return 1 unless $impatient;
	return $self->_do("SET LOCAL nats_publish.ack_timeout = $impatient") && $self->_do("SET LOCAL nats_publish.commit_timeout = $impatient");
}

sub _end
{
	my ($self, $end) = @_;
	$self->_note('end', $end);
	my $not_replicated;
	my $sent = do
	{
		local $SIG{__WARN__} = sub { $not_replicated = 1 if $_[0] =~ /synchronous replication/ };
		$self->_do(uc $end);
	};
	$self->_note('done', $sent ? $not_replicated ? 'unknown' : $end eq 'commit' ? 'committed' : 'rolled back' : $self->_error);
	return $sent || $end eq 'rollback';
}

sub _idle { sleep rand 0.5; return 1; }

# After an error: goes on from the last savepoint, or gives the transaction up. Returns whether it goes on.
sub _caught
{
	my ($self) = @_;
	return 1 if $self->{session} && @{ $self->{savepoints} } && $self->_rollback_to;
	$self->_end('rollback') if $self->{session};
	return 0;
}

sub _set_atomic { return $_[0]->_do(q(SET LOCAL nats_publish.commit_batch = 'atomic')); }
sub _break { return $_[0]->_do('SELECT 1 / 0'); }

sub _savepoint
{
	my ($self) = @_;
	push @{ $self->{savepoints} }, scalar @{ $self->{messages} };
	return 1 if $self->_do('SAVEPOINT s' . @{ $self->{savepoints} });
	pop @{ $self->{savepoints} };
	return 0;
}

# The savepoint stays, as in PostgreSQL.
sub _rollback_to
{
	my ($self) = @_;
	my $savepoints = $self->{savepoints};
	return 1 unless @$savepoints;
	return 0 unless $self->_do('ROLLBACK TO s' . @$savepoints);
	my @undone = splice @{ $self->{messages} }, $savepoints->[-1];
	foreach my $message (@undone)
	{
		$self->_note('undone', $message);
		delete $self->{futures}{$message};
	}
	return 1;
}

sub _release
{
	my ($self) = @_;
	my $savepoints = $self->{savepoints};
	return 1 unless @$savepoints;
	return 0 unless $self->_do('RELEASE s' . @$savepoints);
	pop @$savepoints;
	return 1;
}

# Of the oldest message that may not be acknowledged yet.
sub _await
{
	my ($self) = @_;
	my ($message) = sort { $self->{futures}{$a} <=> $self->{futures}{$b} } keys %{ $self->{futures} };
	return 1 unless defined $message;
	my $ack = $self->_row('SELECT stream, seq FROM nats_await(?)', delete $self->{futures}{$message});
	$self->_note('told', $message, $ack ? ('ok', @$ack) : $self->_error);
	return defined $ack;
}

sub _flush
{
	my ($self) = @_;
	return 0 unless $self->_do('SELECT nats_flush()');
	$self->_note('flushed');
	return 1;
}

sub _futures
{
	my ($self) = @_;
	my $futures = $self->_try(sub { $self->{session}->selectall_arrayref('SELECT future, stream, seq FROM nats_futures() WHERE status = $$acked$$') });
	return 0 unless $futures;
	my %message_of = reverse %{ $self->{futures} };
	foreach my $row (@$futures)
	{
		my ($future, @ack) = @$row;
		$self->_note('told', $message_of{$future}, 'ok', @ack) if defined $message_of{$future};
	}
	return 1;
}

sub _publish
{
	my ($self, $step) = @_;
	return $self->_publish_many($step) if $step->{count};
	my $message = "$self->{transaction}{name}.$step->{message}";
	my $payload = "$message|$step->{length}|" . 'x' x $step->{length};
	$self->_note('call', $message, $step->{mode}, length $payload);
	push @{ $self->{messages} }, $message;
	my @told = $step->{mode} =~ /^change_(.*)/ ? $self->_change($1, $message, $payload)
		: $step->{mode} =~ /^kept_/ ? $self->_kept($step, $message)
		: $self->_call($step->{mode}, $message, $payload);
	$self->{futures}{$message} = $told[1] if @told && $step->{mode} eq 'async';
	$self->_note('told', $message, @told ? ('ok', @told) : $self->_error);
	return @told > 0;
}

# Returns stream and sequence; without a PubAck the first is empty, and the second what the function returned.
sub _call
{
	my ($self, $mode, $message, $payload) = @_;
	my $row = $self->_row($mode eq 'sync' ? 'SELECT stream, seq FROM nats_publish(?, ?::text, msg_id => ?)' :
		"SELECT '', $FUNCTION{$mode}(?, ?::text, msg_id => ?" . ($mode eq 'uncritical' ? ', critical => false)' : ')'), Chaos::Plan::subject($mode, $self->{client}), $payload, $self->{transaction}{ids} ? $message : undef);
	return $row ? @$row : ();
}

# By the trigger of a table.
sub _change
{
	my ($self, $delivery, $message, $payload) = @_;
	return $self->_do("INSERT INTO change_$delivery VALUES (?, ?, ?) ON CONFLICT DO NOTHING", $message, $self->{client}, $payload) ? ('', '') : ();
}

# A row that is there already. It has the attempt in it, for a change that was not committed has no place among the others.
sub _kept
{
	my ($self, $step, $message) = @_;
	return $self->_do("UPDATE $step->{mode} SET version = version + 1, attempt = ?, message = ? WHERE key = ?", $self->{attempt}, $message, $step->{key}) ? ('', '') : ();
}

# With one statement.
sub _publish_many
{
	my ($self, $step) = @_;
	my ($mode, $name, $length, $first, $last) = ($step->{mode}, $self->{transaction}{name}, $step->{length},
		$step->{message}, $step->{message} + $step->{count} - 1);
	my @messages = map { "$name.$_" } $first .. $last;
	$self->_note('call', $_, $mode, $length + length $_) foreach @messages;
	push @{ $self->{messages} }, @messages;
	my $results = $self->_column("SELECT $FUNCTION{$mode}(?, format('%s|%s|%s', message, ?::int, repeat('x', ?::int)), msg_id => CASE WHEN ? THEN message END)
		FROM generate_series(?::int, ?::int) AS i, format('%s.%s', ?::text, i) AS message",
		Chaos::Plan::subject($mode, $self->{client}), $length, $length, $self->{transaction}{ids} ? 't' : 'f', $first, $last, $name);
	my @told = $results ? () : $self->_error;
	# of a statement that failed it is not known which message made it fail
	@told = 'lost' if @told;
	$self->_note('told', $messages[$_], $results ? ('ok', '', $results->[$_]) : @told) foreach 0 .. $#messages;
	return defined $results;
}

sub _do
{
	my ($self, $sql, @values) = @_;
	return $self->_try(sub { $self->{session}->do($sql, undef, @values) });
}

sub _column
{
	my ($self, $sql, @values) = @_;
	return $self->_try(sub { $self->{session}->selectcol_arrayref($sql, undef, @values) });
}

sub _row
{
	my ($self, $sql, @values) = @_;
	return $self->_try(sub { $self->{session}->selectrow_arrayref($sql, undef, @values) });
}

# Returns what the function does; if that is nothing, keeps the error, and forgets the session when that is lost.
sub _try
{
	my ($self, $function) = @_;
	my ($began, $result) = (time, eval { $function->() });
	$self->_waited($began, 'ok') if defined $result && time - $began > $LONG_SECONDS;
	return $result if defined $result;
	my $session = $self->{session};
	@$self{ 'sqlstate', 'text' } = ($session->state, $session->errstr // $@);
	$self->_waited($began, $self->{sqlstate}, $self->{text} =~ s/\s+/ /gr);
	$self->{session} = undef unless $session->ping;
	return;
}

sub _waited
{
	my ($self, $began, @told) = @_;
	$self->_note('waited', sprintf('%.3f', $began), @told);
	return;
}

# What the last call was told.
sub _error
{
	my ($self) = @_;
	my ($text, $detail) = split /^DETAIL:  /m, $self->{text}, 2;
	my @error = map { ($_ // '') =~ s/\s+/ /gr } $self->{sqlstate}, $text, $detail;
	return $self->{session} ? @error : ('lost', @error[ 0, 1 ]);
}

sub _connect
{
	my ($self) = @_;
	return if $self->{session};
	my $end = time + $NO_SERVER_SECONDS;
	my %options = (PrintError => 0, PrintWarn => 1, AutoCommit => 1, pg_server_prepare => 0);
	until ($self->{session} = DBI->connect($self->{connection}->() . ";application_name=chaos_$self->{client}", '', '', \%options))
	{
		die "client $self->{client}: no PostgreSQL for $NO_SERVER_SECONDS s: " . DBI->errstr if time > $end;
		sleep 0.1;
	}
	$self->{session}{RaiseError} = 1;
	return;
}

sub _note
{
	my ($self, @fields) = @_;
	$self->{file}->print(join("\t", sprintf('%.3f', time), map { $_ // '' } @fields), "\n");
	return;
}

1;
