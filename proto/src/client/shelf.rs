//! Administration of messages that are not visible yet: delayed ones, and half ones of open transactions.

use crate::client::admin::Admin;
use crate::client::error::ClientError;
use crate::wire::admin::{
    CancelDelayedRequest, CancelDelayedResponse, EndTransactionRequest, EndTransactionResponse,
    ListDelayedRequest, ListDelayedResponse, ListTransactionsRequest, ListTransactionsResponse,
};

impl Admin {
    /// Messages that wait for their time.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_delayed(
        &self,
        request: ListDelayedRequest,
    ) -> Result<ListDelayedResponse, ClientError> {
        let answer = self.client.admin().list_delayed(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Takes back a message before its time.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn cancel_delayed(
        &self,
        request: CancelDelayedRequest,
    ) -> Result<CancelDelayedResponse, ClientError> {
        let answer = self.client.admin().cancel_delayed(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Transactions that nobody has ended, and those that the server rolled back for that.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn list_transactions(
        &self,
        request: ListTransactionsRequest,
    ) -> Result<ListTransactionsResponse, ClientError> {
        let answer = self.client.admin().list_transactions(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }

    /// Commits or rolls back a transaction.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub async fn end_transaction(
        &self,
        request: EndTransactionRequest,
    ) -> Result<EndTransactionResponse, ClientError> {
        let answer = self.client.admin().end_transaction(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.client.status_error(&status))
    }
}
