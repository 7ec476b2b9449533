
=pod

=head1 NAME

Chaos::Editor - a session that edits messages which wait in the outbox, and writes down what it did

=head1 SYNOPSIS

  Chaos::Editor::run(seed => 1, editor => 1, log => $file, connection => sub { "dbi:Pg:..." }, until => sub { ... });

=head1 DESCRIPTION

Runs the editor's transactions of the plan until C<until> returns true. Each has a row in the table C<ledger>. A row of
the outbox is edited by one editor only, and locked before it is looked at; the canary's are nobody's, nor are those that
came from the WAL or are of kept rows.

A line of the log is a time and fields with tabs between them. A message's name is that of its last edit: its first one, a
tilde, and the transaction and the step that have edited it.

  begin    edit
  edit     edit, name, new name, length, new subject, "new id" or nothing
  delete   edit, name
  touch    edit, what, name                 what makes no other message of it: a lock, a retry, another time or "no_time"
  end      commit or rollback               is about to be sent
  done     "committed" or "rolled back"; or "lost"; or SQLSTATE, text

=cut

package Chaos::Editor;

use strict;
use warnings FATAL => 'all';

use parent -norequire, 'Chaos::Client';

use Time::HiRes qw(sleep time);

use Chaos::Client;
use Chaos::Plan;

my $NAME = q(split_part(convert_from(substring(payload FOR 60), 'UTF8'), '|', 1));

sub run
{
	my (%args) = @_;
	my $self = bless { %args, client => "editor_$args{editor}" }, __PACKAGE__;
	open($self->{file}, '>', $self->{log}) or die "$self->{log}: $!";
	$self->{file}->autoflush(1);
	for (my $number = 1; !$self->{until}->(); $number++)
	{
		my $edits = Chaos::Plan::edits($self->{seed}, $self->{editor}, $number);
		sleep $edits->{pause};
		$self->_transaction("edit_$self->{editor}_$number", $edits);
	}
	$self->{session}->disconnect if $self->{session};
	return;
}

sub _transaction
{
	my ($self, $name, $edits) = @_;
	$self->_connect;
	$self->{name} = $name;
	$self->_note('begin', $name);
	my $is_well = $self->_do('BEGIN') && $self->_do('INSERT INTO ledger VALUES (?)', $name);
	my $number = 0;
	foreach my $step (@{ $edits->{steps} })
	{
		my $what = "_$step->{what}";
		$is_well &&= $self->$what($step, ++$number);
	}
	sleep $edits->{hold} if $is_well;
	my $end = $is_well ? $edits->{end} : 'rollback';
	$self->_note('end', $end);
	my $sent = $self->{session} && $self->_do($end);
	$self->_note('done', $sent ? $end eq 'commit' ? 'committed' : 'rolled back' : $self->_error);
	return;
}

# Returns id, name, subject of a row, locked; the first one is empty when there is none. Nothing after an error. From any id on,
# for there may be very many.
sub _pick
{
	my ($self, $step) = @_;
	my $waiting = $step->{only_waiting} ? 'next_attempt_at IS NOT NULL AND ' : '';
	my $row = $self->_try(sub { [ $self->{session}->selectrow_array("SELECT id, $NAME, subject FROM nats_outbox
		WHERE $waiting id % ? = ? AND subject <> ? AND subject !~ '^chaos[.](wal|gone|kept)[.]' AND id >= (SELECT min(id) + floor(random() * (max(id) - min(id))) FROM nats_outbox)
		ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED", undef, $Chaos::Plan::EDITORS, $self->{editor} - 1, Chaos::Plan::subject('outbox', $Chaos::Plan::CANARY)) ] });
	return $row ? map { $_ // '' } @$row[ 0 .. 2 ] : ();
}

# What the message becomes: its name, its payload, its subject.
sub _edited
{
	my ($self, $step, $number, $name, $subject) = @_;
	my ($message) = split /~/, $name;
	my ($client) = split /\./, $message;
	my $new = "$message~$self->{name}_$number";
	$subject = $step->{to} eq 'moved' ? "$subject.moved" : Chaos::Plan::subject($step->{to}, $client) if $step->{to};
	return ($new, "$new|$step->{length}|" . 'x' x $step->{length}, $subject);
}

sub _edit
{
	my ($self, $step, $number) = @_;
	my ($id, $name, $subject) = $self->_pick($step) or return 0;
	return 1 if $id eq '';
	my ($new, $payload, $new_subject) = $self->_edited($step, $number, $name, $subject);
	my $has_new_id = $step->{what} eq 'edit';
	$self->_note('edit', $self->{name}, $name, $new, $step->{length}, $new_subject, $has_new_id ? 'new id' : '');
	return $self->_do(q(UPDATE nats_outbox SET payload = convert_to(?, 'UTF8'), subject = ?) . ($has_new_id ? ', msg_id = ?' : '') . ' WHERE id = ?',
		$payload, $new_subject, $has_new_id ? $new : (), $id);
}

sub _edit_same_id { return _edit(@_); }

sub _delete
{
	my ($self, $step) = @_;
	my ($id, $name) = $self->_pick($step) or return 0;
	return 1 if $id eq '';
	$self->_note('delete', $self->{name}, $name);
	return $self->_do('DELETE FROM nats_outbox WHERE id = ?', $id);
}

sub _touch
{
	my ($self, $step, $sql) = @_;
	my ($id, $name) = $self->_pick($step) or return 0;
	return 1 if $id eq '';
	$self->_note('touch', $self->{name}, $step->{what}, $name);
	return !defined $sql || $self->_do($sql, $id);
}

sub _lock { my ($self, $step) = @_; return $self->_touch($step); }
sub _retry { my ($self, $step) = @_; return $self->_touch($step, 'SELECT nats_outbox_retry(?)'); }

# Of what has been tried; when a new message is tried is the relay's business.
sub _time
{
	my ($self, $step) = @_;
	return $self->_touch({ %$step, only_waiting => 1, what => $step->{time} eq 'NULL' ? 'no_time' : 'time' }, "UPDATE nats_outbox SET next_attempt_at = $step->{time} WHERE id = ?");
}

sub _retry_all { return $_[0]->_do('SELECT nats_outbox_retry_all()'); }

# One that was too large is not any more, and comes back.
sub _edit_dead
{
	my ($self, $step, $number) = @_;
	my $row = $self->_try(sub { [ $self->{session}->selectrow_array("SELECT dead_id, id, $NAME, subject FROM nats_outbox_dead
		WHERE id % ? = ? LIMIT 1 FOR UPDATE SKIP LOCKED", undef, $Chaos::Plan::EDITORS, $self->{editor} - 1) ] }) or return 0;
	my ($dead_id, $id, $name, $subject) = @$row;
	return 1 unless defined $dead_id;
	my ($new, $payload, $new_subject) = $self->_edited($step, $number, $name, $subject);
	$self->_note('edit', $self->{name}, $name, $new, $step->{length}, $new_subject, '');
	return $self->_do(q(UPDATE nats_outbox_dead SET payload = convert_to(?, 'UTF8'), subject = ? WHERE dead_id = ?), $payload, $new_subject, $dead_id)
		&& $self->_do('SELECT nats_outbox_retry(?)', $id);
}

1;
